from .activations import REGISTERED_NAMES
from .hdf5 import read_hdf5
from .importer import find_sources, import_legacy, load_legacy

__all__ = [
    "REGISTERED_NAMES",
    "find_sources",
    "import_legacy",
    "load_legacy",
    "read_hdf5",
]
