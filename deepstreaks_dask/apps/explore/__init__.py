"""The explore dashboard: thresholds as sliders, and everything that follows from them.

A page for cutouts (`page`), one for sequences (`sequence_page`), and a tab a question (`tabs`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
