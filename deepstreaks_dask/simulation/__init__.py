"""Simulated, labelled data: nights of streak cutouts, sequences of stamps, injected streaks.

Every row says in its ``kind`` and ``source`` columns that it is a simulation.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
