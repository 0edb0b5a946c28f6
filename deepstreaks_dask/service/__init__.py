"""The nightly service: fetch a night's products, score them as they arrive, tell people, remember what was done.

Depots (`depots`, `http_depot`), the state that survives a kill (`state`) with its calendar (`night_calendar`) and messages
to deliver (`outbox`), channels, metrics (`monitor`) and the loop (`service`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
