"""The nightly service: fetch a night's products, score them as they arrive, remember what was done.

Depots (`depots`), the state that survives a kill (`state`), metrics (`monitor`) and the loop (`service`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
