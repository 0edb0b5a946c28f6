"""The tabs of the explore dashboard, each of which answers one question.

A tab takes the session and returns what Panel shows.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
