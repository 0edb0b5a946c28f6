"""Injection and recovery: put simulated streaks into cutouts, score these as any, and count what is found again.

That is how a survey measures its completeness; Duev et al. (2019, MNRAS 486, 4158, arXiv:1904.05920) counted streaks of
known asteroids. :func:`inject` makes an archive of them, a grid of magnitudes and lengths; it is scored by a campaign as
any other, and :func:`recovery` gives the share that is recovered in each cell, with its interval.

**Into simulated cutouts** the streak is light in electrons on the detector: noise, image subtraction, masks, stretch and
JPEG follow. **Into real ones**, which are 8-bit pictures, it can only be painted. How light becomes grey is taken from the
picture itself: one standard deviation of an empty pixel is ``noise`` electrons, which has to be given, and as many grey
levels as the median absolute deviation of the picture says, corrected for what its resizing smoothed. Sources are dark
on light grey; where the picture is flat it is masked, and stays so. That leaves out a stretch that is not linear, what
JPEG does to a streak, blooming, and how much fainter a streak is that the image subtraction has eaten into.

Either measures the *networks*, given a cutout. Whether a streak finder would have made that cutout is another question:
the completeness of a survey is the product of the two.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter

from deepstreaks_dask.archive.append import AppendSummary, CutoutBatch, append_batches
from deepstreaks_dask.archive.create import create_archive
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.query import Kind, parse
from deepstreaks_dask.archive.schema import CUTOUT_SIZE
from deepstreaks_dask.errors import InjectionError
from deepstreaks_dask.readers.images import to_cutout
from deepstreaks_dask.simulation.camera import FWHM_PER_SIGMA, Conditions, Scene
from deepstreaks_dask.simulation.nights import ZERO_POINT, Night, calendar
from deepstreaks_dask.simulation.streaks import add_asteroid, simulate_asteroid
from deepstreaks_dask.utils.progress import progress_bar
from deepstreaks_dask.vocabulary import LABEL_COLUMNS

NOISE_LEVEL = 24.0
"""Electrons, standard deviation of an empty pixel of a difference image: that of the simulator's median night."""

NATIVE_SIZE = 157
"""Pixels on a side of a ZTF cutout before it was resized."""

CONTROL_KIND = "control"
"""Kind of a cutout into which nothing was put: what passes there is recovered by chance."""

_DEFAULT_SIGMA = 0.95  # detector pixels, of the PSF, where the archive does not say
_MIN_RELATIVE_NOISE = 0.3  # of the picture's noise: less is a mask
_BATCH_CUTOUTS = 256
_MAX_NIGHTS = 28
_MAX_STREAKS = 1_000_000  # streaks in a grid


@dataclass(frozen=True)
class InjectionGrid:
    """Which streaks are injected: all combinations of magnitude and length.

    Attributes
    ----------
    magnitudes : sequence of float
        Of the whole streak, mag.
    lengths : sequence of float
        In pixels of the detector.
    each : int
        Streaks per combination, and cutouts without a streak.
    """

    magnitudes: Sequence[float]
    lengths: Sequence[float]
    each: int = 50


@dataclass(frozen=True)
class HostOptions:
    """Which cutouts streaks are put into, and their exposure.

    Attributes
    ----------
    where : str
        Filter on the archive's columns; by default the cutouts labelled bogus, and all where there are no labels. An
        artefact that is there already may hide a streak.
    noise : float
        Noise of a pixel in electrons; of real cutouts only.
    zero_point : float
        Magnitude of one electron in the exposure.
    """

    where: str = ""
    noise: float = NOISE_LEVEL
    zero_point: float = ZERO_POINT


def inject(
    archive: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    grid: InjectionGrid,
    *,
    hosts: HostOptions | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> AppendSummary:
    """Make an archive of cutouts with streaks of known magnitude and length.

    Parameters
    ----------
    archive : str or path, optional
        Archive whose cutouts the streaks are put into; None simulates cutouts, night by night.
    out : str or path
        The new archive.
    grid : InjectionGrid
        Magnitudes, lengths, and streaks for each of their combinations.
    hosts : HostOptions, optional
        Which cutouts, and their exposure; the defaults of :class:`HostOptions` if not given.
    seed : int
        Equal seeds give equal archives.
    overwrite : bool
        Replace the archive that is at ``out``.
    progress : bool
        Show count, rate and time left.

    Returns
    -------
    AppendSummary
        Cutouts that equal another, such as those whose streak is too faint to change a pixel, are quarantined.

    Raises
    ------
    InjectionError
        If the grid cannot be, no cutout passes the filter, or the archive has no bytes of 144 x 144.
    ArchiveError
        If ``out`` is there already and is not to be replaced.
    """
    chosen = hosts or HostOptions()
    magnitudes, lengths, each = grid.magnitudes, grid.lengths, grid.each
    noise, zero_point = chosen.noise, chosen.zero_point
    cells = [(float(m), float(length)) for m in magnitudes for length in lengths]
    if not cells or each < 1 or len(cells) * each > _MAX_STREAKS:
        raise InjectionError(
            f"give magnitudes, lengths, and 1 or more streaks a cell, {_MAX_STREAKS:,} in all at most"
        )
    known = [length for length in lengths if not 1 <= length <= CUTOUT_SIZE]
    if known or not np.isfinite(magnitudes).all() or not 0 < noise < np.inf:
        raise InjectionError(
            f"lengths are 1 to {CUTOUT_SIZE} pixels, magnitudes and the noise are numbers"
        )
    painter = None if archive is None else _Hosts(archive, chosen.where, noise)
    plan = [(cell, k) for cell in range(len(cells)) for k in range(each)]
    controls = each if painter is None else min(each, len(painter.rows))
    plan += [(-1, k) for k in range(controls)]
    create_archive(out, overwrite=overwrite)
    with progress_bar("inject", len(plan), show=progress) as bar:

        def batches() -> Iterator[CutoutBatch]:
            for first in range(0, len(plan), _BATCH_CUTOUTS):
                some = plan[first : first + _BATCH_CUTOUTS]
                made = []
                for cell, k in some:
                    mag, length = cells[cell] if cell >= 0 else (np.nan, np.nan)
                    rng = np.random.default_rng((seed, cell + 1, k))
                    flux = 10 ** (0.4 * (zero_point - mag)) if cell >= 0 else 0.0
                    if painter is None:
                        made.append(_simulated(mag, length, flux, k, seed, rng))
                    else:
                        made.append(painter.painted(mag, length, flux, k, rng))
                yield _batch(made)
                bar.advance(len(some))

        return append_batches(out, batches())


class _Hosts:
    """Real cutouts to paint streaks into."""

    def __init__(self, archive: str | os.PathLike[str], where: str, noise: float) -> None:
        self.dataset, self.noise = open_archive(archive, cache=True), noise
        pixels = self.dataset["cutouts"]
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (CUTOUT_SIZE, CUTOUT_SIZE):
            raise InjectionError(
                f"{archive} holds cutouts of {pixels.dtype} {pixels.shape[1:]}: streaks are painted into bytes of "
                f"{CUTOUT_SIZE} x {CUTOUT_SIZE}"
            )
        columns = {
            str(name): column
            for name, column in self.dataset.coords.items()
            if column.dims == ("cutout",) and name != "digest"
        }
        kinds: dict[str, Kind] = {
            name: "number" if column.dtype.kind in "iuf" else "text"
            for name, column in columns.items()
        }
        bogus = (self.dataset["label_rb"].values == 0).any()
        chosen = parse(where or ("label_rb == 0" if bogus else ""), kinds)
        known = {name: columns[name].values for name in chosen.names}
        self.rows = np.flatnonzero(chosen(known, self.dataset.sizes["cutout"]))
        if not len(self.rows):
            raise InjectionError(f"no cutout of {archive} passes the filter {where!r}")
        self._columns = {
            name: columns[name].values for name in ("id", "night", "jd", "filter", "ra", "dec")
        }
        sigma = columns["sigma"].values
        self._sigma = np.where(np.isfinite(sigma) & (sigma > 0), sigma, _DEFAULT_SIGMA)

    def painted(
        self, mag: float, length: float, flux: float, k: int, rng: np.random.Generator
    ) -> _Made:
        # controls are not drawn twice, since equal cutouts are stored once
        row = int(self.rows[k] if not flux else rng.choice(self.rows))
        picture = self.dataset["cutouts"][row].values
        snr = np.nan
        if flux:
            picture = np.rot90(picture, int(rng.integers(4)))
            picture, snr = paint(picture, length, flux, self.noise, float(self._sigma[row]), rng)
        here = {name: values[row] for name, values in self._columns.items()}
        return _Made(picture, mag, length, flux, snr, k, f"into {here['id']}", here)


class _Made:
    """One cutout and its truth."""

    def __init__(
        self,
        pixels: np.ndarray,
        mag: float,
        length: float,
        flux: float,
        snr: float,
        k: int,
        host: str,
        columns: dict[str, object],
    ) -> None:
        self.pixels, self.mag, self.length, self.flux = pixels, mag, length, flux
        self.snr, self.host, self.columns = snr, host, columns
        self.kind = "nea" if flux else CONTROL_KIND
        cell = f"m{mag:g}-l{length:g}" if flux else CONTROL_KIND
        self.name = f"injected-{cell}-{k:05d}"


def paint(
    picture: np.ndarray,
    length: float,
    flux: float,
    noise: float,
    sigma: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, float]:
    """Paint a streak into a real cutout, dark on light grey.

    Parameters
    ----------
    picture : ndarray
        uint8 ``(144, 144)``.
    length, sigma : float
        Of the streak and of the PSF, in pixels of the detector; the cutout's are larger by 157 / 144.
    flux, noise : float
        Electrons; the noise is of an empty pixel of the detector.
    rng : numpy.random.Generator
        Draws angle, place and photon noise.

    Returns
    -------
    ndarray, float
        uint8 ``(144, 144)``, and the ratio of signal to noise of the ideal matched filter on the detector.
    """
    scale = CUTOUT_SIZE / NATIVE_SIZE
    grey = picture.astype(np.float32)
    spread = 1.4826 * float(np.median(np.abs(grey - np.median(grey)))) / _smoothing()
    spread = max(spread, 1.0)  # a picture that is flat all over has its noise below one level
    fwhm = sigma * scale * FWHM_PER_SIGMA
    sky = Conditions(fwhm, noise**2, 0.0, np.inf, 0.0, 0.0)
    scene = Scene(sky, CUTOUT_SIZE, rng)
    # light a pixel stays what it was when pixels grow, and there are fewer of them
    truth = add_asteroid(scene, length * scale, flux * scale**2)
    signal = scene.light / noise
    signal += np.sqrt(np.clip(scene.light, 0, None)) / noise * rng.standard_normal(signal.shape)
    mean = uniform_filter(grey, 5)
    roughness = np.sqrt(np.clip(uniform_filter(grey**2, 5) - mean**2, 0, None))
    signal[roughness < _MIN_RELATIVE_NOISE * spread * _smoothing()] = 0
    painted = np.clip(np.rint(grey - signal * spread), 0, 255).astype(np.uint8)
    return painted, truth.snr / scale


@lru_cache(maxsize=1)
def _smoothing() -> float:
    """What resizing leaves of the standard deviation of white noise."""
    rng = np.random.default_rng(0)
    noise = np.clip(rng.normal(128, 25, (NATIVE_SIZE, NATIVE_SIZE)), 0, 255).astype(np.uint8)
    return float(to_cutout(Image.fromarray(noise)).std() / noise.std())


def _simulated(
    mag: float, length: float, flux: float, k: int, seed: int, rng: np.random.Generator
) -> _Made:
    night = Night.draw(calendar(20260101, _MAX_NIGHTS)[k % _MAX_NIGHTS], seed)
    conditions = night.conditions(rng)
    cutout = simulate_asteroid(length if flux else 10.0, flux, conditions, rng)
    columns: dict[str, object] = {"night": night.night}
    snr = cutout.truth.snr if flux else np.nan
    return _Made(to_cutout(cutout.picture), mag, length, flux, snr, k, "into simulation", columns)


def _batch(made: list[_Made]) -> CutoutBatch:
    names = list(made[0].columns)
    columns = {
        name: np.array(
            [one.columns[name] for one in made],
            dtype=object if name in ("id", "filter") else None,
        )
        for name in names
    }
    columns |= {
        "id": np.array([one.name for one in made], dtype=object),
        "source": np.array([f"simulation: injected {one.host}" for one in made], dtype=object),
        "kind": np.array([one.kind for one in made], dtype=object),
    }
    columns |= {
        name: np.array([getattr(one, name) for one in made], np.float32)
        for name in ("mag", "length", "flux", "snr")
    }
    truth = np.array([1 if one.flux else -1 for one in made], np.int8)
    columns |= dict.fromkeys(LABEL_COLUMNS, truth)
    return CutoutBatch(np.stack([one.pixels for one in made]), columns)
