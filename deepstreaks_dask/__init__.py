"""Run the DeepStreaks classifiers over archives of survey cutouts with Dask."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("deepstreaks-dask")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
