"""The cutout archive: one Zarr v3 group that xarray opens.

The format (`schema`), its commit record (`store`), and every way to make, open, extend, check and
query an archive, of cutouts or of sequences of stamps. Nothing here knows a network or a file format.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
