"""Run the DeepStreaks classifiers over archives of survey cutouts with Dask.

``import deepstreaks_dask as ds`` has the names that most work needs, each loaded when it is first used. The packages
``ds.readers``, ``ds.models``, ``ds.scoring``, ``ds.evaluation``, ``ds.training``, ``ds.plots`` and ``ds.review``
have all others.
"""

import importlib
from importlib.metadata import PackageNotFoundError, version

import lazy_loader

try:
    __version__ = version("deepstreaks-dask")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

_RETURN_DATASETS = {"Decision", "open_archive", "open_run", "score"}


def __getattr__(name: str) -> object:
    if name in _RETURN_DATASETS:  # whose `.streaks` must be registered before they are returned
        importlib.import_module(f"{__name__}.accessor")
    return _load(name)
