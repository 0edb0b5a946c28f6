"""The tabs of the explore dashboard, each of which answers one question.

A tab takes the session and the gallery, and draws the figures of its part of the page. No tab imports another one.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
