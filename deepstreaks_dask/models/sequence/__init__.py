"""Classifiers of sequences of stamps: the RCNN, the TAO-Net and a random forest.

Their common interface (`classifier`, `recurrent`), their layers and their preprocessing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
