"""Progress bars, files and objects that are replaced in one step, and checks of JSON and TOML.

What every other package may use, and what needs none of them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
