"""Fluxes on stamps, and features of light curves.

The measurements (`core`) and the statistics made from them (`features`), each implemented once.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
