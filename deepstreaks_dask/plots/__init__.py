"""Plots as HoloViews elements, from tables that `deepstreaks_dask.evaluation` returns.

One look for all of them (`style`). Nothing here computes a figure that is not drawn.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
