"""The explore dashboard: thresholds as sliders, and the counts, plots and cutouts that follow.

One page for cutouts (`page`) and one for sequences (`sequence_page`). The tabs of the page of cutouts (`tabs`) take its
`Session`, and none of them imports the page.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
