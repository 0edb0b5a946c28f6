"""The review dashboard: candidates in a gallery, and verdicts by key.

HTML pages on the HTTP API of `deepstreaks_dask.apps.server`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
