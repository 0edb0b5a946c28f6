"""Measure a run: rates, curves, calibration, thresholds, drift and completeness, with intervals.

Everything takes a run's scores as an xarray dataset; nothing here draws or stores.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
