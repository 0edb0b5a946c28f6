"""Train members of families on the labels of an archive, and record how it was done.

The named recipe ``duev2019`` is that of DeepStreaks (Duev et al. 2019, MNRAS 486, 4158,
arXiv:1904.05920); `recipe` says where this differs.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
