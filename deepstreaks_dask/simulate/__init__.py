"""Simulated, labelled data: streak cutouts, night by night.

Everything that comes out of here is a simulation and says so in its ``kind`` and ``source`` columns.
"""

from deepstreaks_dask.simulate.nights import Night, simulate_nights, write_images
from deepstreaks_dask.simulate.streaks import KINDS, LABELS, simulate_cutout

__all__ = ["KINDS", "LABELS", "Night", "simulate_cutout", "simulate_nights", "write_images"]
