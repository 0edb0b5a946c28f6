"""Score an archive: ensembles, the decision, runs, campaigns on Dask, and how they are watched.

A campaign is planned (`plan`) and executed (`campaign`): workers (`worker`, `networks`) score shards, and the scores
are stored as a run (`runs`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
