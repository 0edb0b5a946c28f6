"""The zoo: named, versioned networks with a card each and hashed weights.

What a card says (`card`), where networks are stored (`store`), and how they become bytes (`serialization`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
