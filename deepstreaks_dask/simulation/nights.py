"""Simulated nights: many cutouts under one night's sky, as batches or as a folder of JPEG files."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import astropy.units as u
import numpy as np
import pandas as pd
from astropy.coordinates import SkyCoord
from astropy.time import Time

from deepstreaks_dask.archive.append import CutoutBatch
from deepstreaks_dask.readers.images import to_cutout
from deepstreaks_dask.simulation.camera import PIXEL_SCALE, Conditions
from deepstreaks_dask.simulation.streaks import (
    KINDS,
    SimulatedCutout,
    simulate_cutout,
)
from deepstreaks_dask.vocabulary import FAMILIES, label_column

ZERO_POINT = 29.5
"""Magnitude of one electron in a 30 s exposure; round, about that of ZTF."""

_CUTOUTS_PER_TASK = 256  # cutouts a task: large enough to hide the cost of handing it out


@dataclass(frozen=True)
class Night:
    """One simulated night: its date, its weather, and the seed that everything in it follows from.

    Attributes
    ----------
    night : int
        ``YYYYMMDD``.
    seed : int
        Seed of the whole simulation; a night's cutouts depend on it, on ``night`` and on their number only.
    seeing : float
        Median FWHM in pixels.
    sky : float
        Median sky in electrons a pixel: dark sky to bright moon.
    stars : float
        Median number of residual-leaving stars a cutout.
    """

    night: int
    seed: int
    seeing: float
    sky: float
    stars: float

    @classmethod
    def draw(cls, night: int, seed: int) -> Night:
        """Draw a night's weather.

        Parameters
        ----------
        night : int
            YYYYMMDD.
        seed : int
            Of the whole simulation.

        Returns
        -------
        Night
            The same again for the same two.
        """
        rng = np.random.default_rng((seed, night))
        return cls(
            night,
            seed,
            seeing=float(np.clip(rng.lognormal(np.log(2.2), 0.2), 1.7, 4.0)),
            sky=float(rng.lognormal(np.log(450), 0.7)),
            stars=float(rng.gamma(2.0, 5.0)),
        )

    def conditions(self, rng: np.random.Generator) -> Conditions:
        """Draw the conditions of one exposure of this night."""
        return Conditions(
            fwhm=float(np.clip(self.seeing * rng.lognormal(0, 0.12), 1.6, 5.0)),
            sky=float(max(self.sky * rng.lognormal(0, 0.3), 60.0)),
            read_noise=float(rng.uniform(8, 12)),
            reference_depth=float(rng.uniform(12, 40)),
            stars=float(self.stars * rng.gamma(1.5, 1 / 1.5)),
            misalignment=float(abs(rng.normal(0, 0.15)) + 0.03),
        )

    def cutout(self, number: int) -> tuple[SimulatedCutout, Conditions]:
        """Simulate cutout ``number`` of this night; the same number gives the same cutout."""
        rng = np.random.default_rng((self.seed, self.night, number))
        shares = np.array([kind.share for kind in KINDS.values()])
        kind = str(rng.choice(list(KINDS), p=shares / shares.sum()))
        conditions = self.conditions(rng)
        return simulate_cutout(kind, conditions, rng), conditions


def calendar(first: int, nights: int) -> list[int]:
    """Give ``nights`` consecutive nights from ``first``, each as ``YYYYMMDD``.

    Parameters
    ----------
    first : int
        YYYYMMDD.
    nights : int
        How many.

    Returns
    -------
    list of int
        YYYYMMDD, rising.
    """
    start = date.fromisoformat(str(first))
    return [int((start + timedelta(days=k)).strftime("%Y%m%d")) for k in range(nights)]


def simulate_nights(
    nights: int,
    cutouts: int,
    *,
    seed: int = 0,
    first: int = 20260101,
    executor: Executor | None = None,
) -> Iterator[CutoutBatch]:
    """Simulate nights of labelled streak cutouts.

    Parameters
    ----------
    nights, cutouts : int
        Number of nights, and of cutouts in each.
    seed : int
        Equal seeds give equal cutouts, whatever the executor and however many nights.
    first : int
        First night, ``YYYYMMDD``.
    executor : concurrent.futures.Executor, optional
        Where to simulate; this process by default. Blocks come back in order.

    Yields
    ------
    CutoutBatch
        Up to 256 cutouts of one night, uint8 ``(n, 144, 144)``, with the kind, labels and truth of each.
    """
    blocks = [
        (Night.draw(night, seed), range(start, min(start + _CUTOUTS_PER_TASK, cutouts)))
        for night in calendar(first, nights)
        for start in range(0, cutouts, _CUTOUTS_PER_TASK)
    ]
    run = map if executor is None else executor.map
    yield from run(_simulate_block, *zip(*blocks, strict=True))


def _simulate_block(night: Night, numbers: range) -> CutoutBatch:
    made = [night.cutout(number) for number in numbers]
    pixels = np.stack([to_cutout(cutout.picture) for cutout, _ in made])
    return CutoutBatch(pixels, simulated_columns(night, numbers, made))


def write_images(folder: Path, night: Night, cutouts: int) -> Path:
    """Write a night as the survey would deliver it: a folder of JPEG files and a table of labels.

    Parameters
    ----------
    folder : Path
        Gets ``YYYYMMDD/<id>_scimref.jpg`` and ``YYYYMMDD.csv``.
    night : Night
        The night to simulate.
    cutouts : int
        How many.

    Returns
    -------
    Path
        The table, with a row for each cutout.
    """
    images = folder / str(night.night)
    images.mkdir(parents=True, exist_ok=True)
    numbers = range(cutouts)
    made = []
    for number in numbers:
        cutout, conditions = night.cutout(number)
        name = f"{_identifier(night, number)}_scimref.jpg"
        cutout.picture.convert("L").save(images / name, quality=92)
        made.append((cutout, conditions))
    table = pd.DataFrame(simulated_columns(night, numbers, made))
    table.insert(0, "file", [f"{night.night}/{i}_scimref.jpg" for i in table["id"]])
    path = folder / f"{night.night}.csv"
    table.drop(columns="source").to_csv(path, index=False)
    return path


def _identifier(night: Night, number: int) -> str:
    return f"strkid{night.night}{number:06d}_pid{night.night}"


def simulated_columns(
    night: Night, numbers: range, made: list[tuple[SimulatedCutout, Conditions]]
) -> dict[str, np.ndarray]:
    """Catalogue columns of a block: the truth of the simulation, placed on a made-up sky.

    Parameters
    ----------
    night : Night
        Of the block.
    numbers : range
        Of its cutouts.
    made : list
        Each cutout with the conditions that it was taken in.

    Returns
    -------
    dict of str to ndarray
        Of the archive's schema, each ``(cutout,)``.
    """
    n = len(made)
    rng = np.random.default_rng((night.seed, night.night, numbers.start, n, 1))
    day = f"{night.night // 10000}-{night.night // 100 % 100:02d}-{night.night % 100:02d}"
    jd = Time(day, scale="utc").jd + 0.1 + 0.4 * np.sort(rng.random(n))
    centre = SkyCoord(rng.uniform(0, 360, n) * u.deg, rng.uniform(-25, 80, n) * u.deg)
    truth = [cutout.truth for cutout, _ in made]
    length = np.array([t.length for t in truth])
    half = np.nan_to_num(length) / 2 * PIXEL_SCALE * u.arcsec
    # pictures have x to the right = west, y down = south: the angle is turned to north through east
    angle = (np.nan_to_num([t.angle for t in truth]) + np.pi / 2) * u.rad
    one = centre.directional_offset_by(angle, half)
    two = centre.directional_offset_by(angle + np.pi * u.rad, half)
    flux = np.array([t.flux for t in truth])
    magnitude = np.full(n, np.nan)
    shining = np.array([f > 0 for f in flux])
    magnitude[shining] = ZERO_POINT - 2.5 * np.log10(flux[shining])
    kinds = [cutout.kind for cutout, _ in made]
    columns: dict[str, np.ndarray] = {
        "id": np.array([_identifier(night, number) for number in numbers], dtype=object),
        "night": np.full(n, night.night, np.int32),
        "jd": jd,
        "filter": rng.choice(np.array(["g", "r", "i"], dtype=object), n, p=[0.4, 0.5, 0.1]),
        "ra": centre.ra.deg,
        "dec": centre.dec.deg,
        "ra1": one.ra.deg,
        "dec1": one.dec.deg,
        "ra2": two.ra.deg,
        "dec2": two.dec.deg,
        "length": length.astype(np.float32),
        "sigma": np.array([c.sigma for _, c in made], np.float32),
        "flux": flux.astype(np.float32),
        "mag": magnitude.astype(np.float32),
        "snr": np.array([t.snr for t in truth], np.float32),
        "source": np.array([f"simulation, seed {night.seed}"] * n, dtype=object),
        "kind": np.array(kinds, dtype=object),
    }
    for family in FAMILIES:
        columns[label_column(family)] = np.array(
            [KINDS[k].labels.get(family, -1) for k in kinds], np.int8
        )
    return columns
