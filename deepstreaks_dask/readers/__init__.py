"""Read cutouts, stamps and labels from the formats that surveys use.

One module a format, with a ``READER`` that follows the protocol in `registry`. A new format is a new
module here; the archive knows none of them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
