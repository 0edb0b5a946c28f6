"""``python -m deepstreaks_dask`` is the command ``deepstreaks``."""

from deepstreaks_dask.cli import main

main()
