"""Score an archive: families, the decision, runs, campaigns on Dask, and how they are watched.

Members look at cutouts on workers (`worker`, `ensemble`), a campaign shares shards out among them
(`campaign`), and what they say is stored as a run (`runs`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
