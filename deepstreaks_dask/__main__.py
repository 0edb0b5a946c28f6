"""``python -m deepstreaks_dask`` is the command ``deepstreaks``."""

from deepstreaks_dask.cli.main import main

main()
