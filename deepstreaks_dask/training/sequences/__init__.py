"""Train classifiers of sequences: folds, few samples, and the papers' tables made again.

Objects are split whole, so no object is in both training and test.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
