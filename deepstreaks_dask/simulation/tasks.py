"""Which classes a simulated survey draws, and how many of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from deepstreaks_dask.simulation.source import Source
from deepstreaks_dask.simulation.surveys import ObservingLog, SimulationError
from deepstreaks_dask.simulation.variables import (
    active_nucleus,
    asteroid,
    blazar,
    cataclysmic,
    cepheid,
    constant,
    eclipsing_binary,
    flare_star,
    galaxy,
    long_period,
    proper_motion_star,
    rr_lyrae,
    supernova,
)

Draw = Callable[[np.random.Generator, ObservingLog, float], Source]


DISC_DRAWS: tuple[Draw, ...] = (cataclysmic, long_period)
"""What lies towards the plane of the Galaxy more often than elsewhere."""


@dataclass(frozen=True)
class Task:
    """Classes to tell apart, what each is made of, and how many there are of each.

    Attributes
    ----------
    kinds : mapping of str to tuple of callable
        For each class the kinds of source in it, equally often.
    counts : mapping of str to int
        In what proportions classes come; equal by default.
    """

    kinds: Mapping[str, tuple[Draw, ...]]
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.kinds)

    @property
    def shares(self) -> np.ndarray:
        """How much of a simulation each class takes, ``(class,)``."""
        counts = np.array([self.counts.get(name, 1) for name in self.kinds], float)
        shares: np.ndarray = counts / counts.sum()
        return shares


# a search against a catalogue reports what is two magnitudes brighter, so that supernovae on bright galaxies are
# missed, and hosts are faint (Drake et al. 2009, ApJ 696, 870)
_CRTS_CLASSES: dict[str, tuple[Draw, ...]] = {
    "AGN": (active_nucleus,),
    "BZ": (blazar,),
    "CV": (cataclysmic,),
    "OTHER": (flare_star, long_period, proper_motion_star, asteroid),
    "SN": (partial(supernova, fainter=1.2),),
}
_CRTS_COUNTS = {"AGN": 606, "BZ": 239, "CV": 772, "OTHER": 818, "SN": 1372}

TASKS = {
    "rcnn": Task(
        {
            "supernova": (supernova,),
            "rrlyrae": (rr_lyrae,),
            "cepheid": (cepheid,),
            "eclipsing": (eclipsing_binary,),
            "nonvariable": (constant,),
            "galaxy": (galaxy,),
            "asteroid": (asteroid,),
        }
    ),
    "taonet": Task(_CRTS_CLASSES, _CRTS_COUNTS),
    "taonet6": Task({**_CRTS_CLASSES, "NON": (constant, galaxy)}, {**_CRTS_COUNTS, "NON": 12500}),
}
"""The classes of Carrasco-Davis et al. (2019, PASP 131, 108006), and those of Gómez et al. (2020, MNRAS 499, 3130) with
their counts, without and with non-transients.

OTHER is what else is among the survey's transients (Drake et al. 2009, ApJ 696, 870): flare stars and other variable
stars, stars with high proper motion, and asteroids that one visit saw. Its kinds are equally often here, since their shares
are not published; events that nobody could tell from either a supernova or a cataclysmic variable are left out."""


def get_task(name: str) -> Task:
    """Give a task by name.

    Parameters
    ----------
    name : str
        Such as ``rcnn``.

    Returns
    -------
    Task
        The one of that name.

    Raises
    ------
    SimulationError
        If there is none.
    """
    if name not in TASKS:
        raise SimulationError(f"no task {name!r}: choose one of {', '.join(TASKS)}")
    return TASKS[name]
