"""Import networks that Keras 2 wrote, layer by layer.

A whitelist of layers and options, a bounded HDF5 reader in a child process, and the weights put where
they belong.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
