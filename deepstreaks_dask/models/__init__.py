"""The networks, the compiled forward pass that runs them, and the zoo that stores their weights.

Definitions are plain Keras 3, so they run on TensorFlow, JAX or PyTorch. Keras takes seconds to import;
only code that builds or runs a network imports it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
