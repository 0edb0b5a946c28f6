"""Write candidates as files that other software reads: CSV, VOTable, ADES.

Only what was decided or judged goes out.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
