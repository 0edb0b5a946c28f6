"""Simulated sequences of images: objects of known classes, as a survey would have seen them.

Training sets of simulated stamps are the way of Carrasco-Davis et al. (2019, PASP 131, 108006).

The same seed and number give the same object, whatever is simulated beside it. An object that varies is one that the survey
would have noticed to vary: a label from a catalogue of variables is of such objects only, and nobody could tell a binary
without an eclipse, or a supernova before its explosion, from what does not vary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.time import Time

from deepstreaks_dask.archive.append import CutoutBatch
from deepstreaks_dask.archive.schema import EPOCHS, Column
from deepstreaks_dask.readers import sequences
from deepstreaks_dask.readers.sequences import STAMP_SIZE
from deepstreaks_dask.simulation.source import Sersic, Source
from deepstreaks_dask.simulation.stamps import expose
from deepstreaks_dask.simulation.surveys import (
    Instrument,
    ObservingLog,
    SimulationError,
    Survey,
    get_survey,
)
from deepstreaks_dask.simulation.tasks import DISC_DRAWS, get_task
from deepstreaks_dask.simulation.variables import asteroid, constant, galaxy, proper_motion_star

_OBJECTS_PER_TASK = 64  # objects a task
_MAX_TRIES = 200
_DETECTION_SNR = 5.0  # signal-to-noise ratio of a detection
_MIN_DETECTIONS = 2  # so many an object needs, a moving one half as many
_STEADY_CLASSES = (
    constant,
    galaxy,
    asteroid,
    proper_motion_star,
)  # are not known by their light curves
# what Sesar et al. (2007, AJ 134, 2236) ask of a variable source, for one band
_MIN_SCATTER = 0.05  # magnitudes, root mean square
_MIN_CHI2 = 3.0  # per degree of freedom, about constant light
_HIDDEN_COLUMNS = "zero_point", "fwhm", "sky", "exposure", "gain", "read_noise"

LAYOUT: Mapping[str, Any] = {
    **sequences.LAYOUT,
    "epochs": {**EPOCHS, "true_mag": Column("float32", np.nan, "mag", "simulated magnitude")},
}
"""What an archive of simulated sequences is created with."""


@dataclass(frozen=True)
class Simulated:
    """One simulated object.

    Attributes
    ----------
    label : str
        Its class.
    stamps : ndarray
        float32 ``(epoch, 21, 21)``, counts (ADU) with the sky.
    log : ObservingLog
        The exposures.
    instrument : Instrument
        What took them.
    magnitude : ndarray
        Mag, of everything that varies, or of the galaxy, in each exposure ``(epoch,)``; NaN where nothing shines.
    """

    label: str
    stamps: np.ndarray
    log: ObservingLog
    instrument: Instrument
    magnitude: np.ndarray


def simulate_object(survey: Survey, task: str, seed: int, number: int) -> Simulated:
    """Simulate object ``number``.

    Parameters
    ----------
    survey : Survey
        Who looks.
    task : str
        One of :data:`~deepstreaks_dask.simulation.tasks.TASKS`: which classes there are.
    seed, number : int
        What the object follows from.

    Returns
    -------
    Simulated
        With what it truly is.

    Raises
    ------
    SimulationError
        If there is no such task, or nothing of the object's class could be seen with this log.
    """
    chosen = get_task(task)
    rng = np.random.default_rng((seed, number))
    label = str(rng.choice(chosen.classes, p=chosen.shares))
    kinds = chosen.kinds[label]
    draw = kinds[rng.integers(len(kinds))]
    survey = survey.drawn(rng)
    for _ in range(_MAX_TRIES):
        log = survey.generate(rng)
        depth = float(np.median(log.depth(survey.instrument)))
        source = draw(rng, log, _magnitude(rng, survey.brightest, depth - 0.3))
        if _is_seen(survey, log, source) and (
            draw in _STEADY_CLASSES or _is_noticed(survey, log, source)
        ):
            crowding = survey.crowding_at(rng, disc=draw in DISC_DRAWS)
            stamps = expose(rng, survey.instrument, log, source, crowding)
            shining = np.where(np.isfinite(source.brightness), source.brightness, np.nan)
            return Simulated(label, stamps, log, survey.instrument, shining)
    raise SimulationError(f"nothing of class {label} can be seen with the log of {survey.name}")


def simulate_sequences(
    objects: int,
    survey: Survey | str,
    task: str,
    *,
    seed: int = 0,
    first: int = 0,
    executor: Executor | None = None,
) -> Iterator[CutoutBatch]:
    """Simulate objects with their sequences of stamps.

    Parameters
    ----------
    objects : int
        How many.
    survey : Survey or str
        Who looks; by name ``ztf``, ``hits``, ``crts``, or one of these with ``-shifted`` or ``-varied``.
    task : str
        Which classes: ``rcnn``, ``taonet`` or ``taonet6``.
    seed : int
        Equal seeds give equal objects.
    first : int
        Number of the first object.
    executor : concurrent.futures.Executor, optional
        Where to simulate; this process by default. Blocks come back in order.

    Yields
    ------
    CutoutBatch
        Up to 64 objects for an archive made with :data:`LAYOUT`, their class in ``kind``.

    Raises
    ------
    SimulationError
        If there is no such survey or task.
    """
    survey = get_survey(survey) if isinstance(survey, str) else survey
    get_task(task)
    stop = first + objects
    blocks = [
        (survey, task, seed, range(start, min(start + _OBJECTS_PER_TASK, stop)))
        for start in range(first, stop, _OBJECTS_PER_TASK)
    ]
    if blocks:
        run = map if executor is None else executor.map
        yield from run(_simulate_block, *zip(*blocks, strict=True))


def _simulate_block(survey: Survey, task: str, seed: int, numbers: range) -> CutoutBatch:
    made = [simulate_object(survey, task, seed, number) for number in numbers]
    logs = [one.log for one in made]
    seen = [(one.log, one.instrument) for one in made]
    counts = np.array([len(log) for log in logs])
    times = Time([log.mjd[0] for log in logs], format="mjd")
    # where it is has a random generator of its own, so that it depends on the number alone
    places = np.array([np.random.default_rng((seed, number, 1)).random(2) for number in numbers])
    columns = {
        "id": np.array([f"{survey.name}-{task}-{seed}-{number:07d}" for number in numbers], object),
        "kind": np.array([one.label for one in made], object),
        "night": np.array([int(day.replace("-", "")[:8]) for day in times.isot], np.int32),
        "jd": times.jd,
        "ra": 360 * places[:, 0],
        "dec": np.degrees(np.arcsin(places[:, 1] * 1.2 - 0.4)),
        "mag": np.array([_median(one.magnitude) for one in made], np.float32),
        "source": np.full(len(made), f"simulation {survey.name}, seed {seed}", object),
    }
    epochs = {
        "mjd": np.concatenate([log.mjd for log in logs]),
        "band": np.concatenate([log.band for log in logs]),
        "zero_point": np.concatenate([log.zero_point(by) for log, by in seen]),
        "fwhm": np.concatenate([log.fwhm(by) for log, by in seen]),
        "sky": np.concatenate([log.sky_electrons(by) / by.gain for log, by in seen]),
        "exposure": np.concatenate([log.exposure for log in logs]),
        "gain": np.repeat([by.gain for _, by in seen], counts),
        "read_noise": np.repeat([by.read_noise for _, by in seen], counts),
        "true_mag": np.concatenate([one.magnitude for one in made]),
    }
    if not survey.told:
        for name in _HIDDEN_COLUMNS:
            epochs[name][:] = EPOCHS[name].missing
    stamps = np.concatenate([one.stamps for one in made])
    return CutoutBatch(stamps, columns, counts=counts, epochs=epochs)


def _magnitude(rng: np.random.Generator, brightest: float, faintest: float) -> float:
    """Draw a magnitude: twice as many objects a magnitude fainter, but bright ones, too."""
    faintest = max(faintest, brightest + 0.5)
    slope = 0.3 * np.log(10) / 2
    share = rng.random()
    span = np.exp(slope * (faintest - brightest))
    return float(brightest + np.log1p(share * (span - 1)) / slope)


def _is_seen(survey: Survey, log: ObservingLog, source: Source) -> bool:
    """Say whether a survey would have noticed the object at all."""
    snr = log.snr(survey.instrument, source.brightness)
    half = STAMP_SIZE * survey.instrument.pixel_scale / 2
    inside = (np.abs(source.x) < half) & (np.abs(source.y) < half)
    needed = 1 if any(source.trail) else min(_MIN_DETECTIONS, len(log))
    return int(((snr > _DETECTION_SNR) & inside).sum()) >= needed


def _is_noticed(survey: Survey, log: ObservingLog, source: Source) -> bool:
    """Say whether PSF photometry, as it is to be expected, would show that a source varies."""
    if len(log) < 2:
        return False
    by = survey.instrument
    area = by.noise_area(log.fwhm(by))
    flux = 10 ** (-0.4 * source.magnitude)
    beneath = 0.0 if source.host is None else _within(source.host, np.median(area), by.pixel_scale)
    unit = log.electrons(by, 0.0)
    variance = ((flux + beneath) * unit + (log.noise(by) * by.gain) ** 2 * area) / unit**2
    mean = np.average(flux, weights=1 / variance)
    # the noise itself adds one for each degree of freedom
    chi2 = 1 + ((flux - mean) ** 2 / variance).sum() / (len(log) - 1)
    scatter = 2.5 / np.log(10) * flux.std() / (flux.mean() + beneath)
    return bool(chi2 > _MIN_CHI2 and scatter > _MIN_SCATTER)


def _within(host: Sersic, area: float, scale: float) -> float:
    """Flux of a galaxy in the middle ``area`` pixels, unblurred, in the units of magnitude 0."""
    side = np.sqrt(area) * scale
    axis = (np.arange(9) - 4) * side / 9
    share = float(host.surface(axis[None, :], axis[:, None]).mean()) * side**2
    return 10 ** (-0.4 * host.magnitude) * min(share, 1.0)


def _median(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")
