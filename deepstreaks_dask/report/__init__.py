"""Self-contained HTML pages: reports of runs, sequences, trainings, injections and attribution maps.

A page loads nothing from elsewhere.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
