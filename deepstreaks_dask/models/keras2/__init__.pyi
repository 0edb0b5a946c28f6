from .activations import REGISTERED
from .hdf5 import read_hdf5
from .importer import find_sources, import_legacy, load_legacy

__all__ = [
    "REGISTERED",
    "find_sources",
    "import_legacy",
    "load_legacy",
    "read_hdf5",
]
