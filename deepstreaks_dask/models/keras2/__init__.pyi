from .activations import REGISTERED_NAMES
from .hdf5 import read_hdf5
from .importer import import_legacy, load_legacy
from .layers import LayerScale, Operation
from .safe_layers import INERT_LAYERS, LAYERS, OWN_LAYERS, OWN_MODULE
from .sources import find_sources

__all__ = [
    "INERT_LAYERS",
    "LAYERS",
    "LayerScale",
    "OWN_LAYERS",
    "OWN_MODULE",
    "Operation",
    "REGISTERED_NAMES",
    "find_sources",
    "import_legacy",
    "load_legacy",
    "read_hdf5",
]
