"""Stamps as a camera would have taken them: light through the PSF onto pixels, noise, cosmic rays, counts.

The steps are those of Carrasco-Davis et al. (2019, PASP 131, 108006). Everything is computed for all exposures of an
object at once, in electrons, ``(epoch, y, x)``.
"""

from __future__ import annotations

import numpy as np
from scipy import fft

from deepstreaks_dask.readers.sequences import STAMP_SIZE
from deepstreaks_dask.simulation.source import Sersic, Source
from deepstreaks_dask.simulation.surveys import Instrument, ObservingLog

_MARGIN_PIXELS = 6  # pixels around a stamp from where a galaxy's light still comes in
_MAX_INTEGRATED_FWHM = 2.6  # pixels of FWHM up to which the PSF must be integrated over pixels
_TRAIL_STEPS = 5  # positions along a trail


def expose(
    rng: np.random.Generator,
    instrument: Instrument,
    log: ObservingLog,
    source: Source,
    crowding: float,
) -> np.ndarray:
    """Take a stamp of a source in each exposure of a log.

    Parameters
    ----------
    rng : numpy.random.Generator
        Of misalignment, PSF shape, neighbours and noise.
    instrument : Instrument
    log : ObservingLog
        The exposures.
    source : Source
        What is at the middle.
    crowding : float
        Stars a square arcminute besides.

    Returns
    -------
    ndarray
        float32 ``(epoch, 21, 21)``, counts (ADU), the sky among them. x grows with the last axis.
    """
    n, scale = len(log), instrument.pixel_scale
    optics = _Optics.draw(rng, instrument, log)
    shift = rng.normal(0, instrument.misalignment, (2, n))
    light = np.zeros((n, STAMP_SIZE, STAMP_SIZE), np.float32)
    flux = log.electrons(instrument, source.magnitude)
    reach = STAMP_SIZE / 2 + 5 * optics.fwhm
    x, y = source.x / scale, source.y / scale
    seen = np.flatnonzero((flux > 0) & (np.abs(x) < reach) & (np.abs(y) < reach))
    moved = np.hypot(*source.trail) * log.exposure / scale
    steps = np.linspace(-0.5, 0.5, _TRAIL_STEPS) if moved.max(initial=0) > 0.5 else np.zeros(1)
    for step in steps:
        along = step * log.exposure / scale
        places = np.stack([x + source.trail[0] * along, y + source.trail[1] * along]) + shift
        light[seen] += optics.take(seen).points(places[:, seen], flux[seen] / len(steps))
    for magnitude, where in _neighbours(rng, instrument, log, crowding):
        light += optics.points(where[:, None] + shift, log.electrons(instrument, magnitude))
    if source.host is not None:
        total = log.electrons(instrument, source.host.magnitude)
        light += optics.extended(source.host, shift, scale) * total[:, None, None]
    expected = light + log.sky_electrons(instrument)[:, None, None]
    electrons = rng.poisson(expected) + instrument.read_noise * rng.standard_normal(
        expected.shape, np.float32
    )
    _add_cosmic_rays(rng, electrons, instrument, log)
    counts = np.rint(electrons / instrument.gain).astype(np.float32)
    return np.minimum(counts, np.float32(instrument.saturation))


class _Optics:
    """The PSF of each exposure."""

    def __init__(
        self, fwhm: np.ndarray, ellipticity: np.ndarray, angle: np.ndarray, instrument: Instrument
    ) -> None:
        self.fwhm, self.ellipticity, self.angle = fwhm, ellipticity, angle
        self.instrument = instrument

    @classmethod
    def draw(cls, rng: np.random.Generator, instrument: Instrument, log: ObservingLog) -> _Optics:
        n = len(log)
        ellipticity = np.clip(instrument.ellipticity * rng.lognormal(0, 0.4, n), 0, 0.6)
        return cls(log.fwhm(instrument), ellipticity, rng.uniform(0, np.pi, n), instrument)

    def take(self, rows: np.ndarray) -> _Optics:
        return _Optics(self.fwhm[rows], self.ellipticity[rows], self.angle[rows], self.instrument)

    def points(self, places: np.ndarray, flux: np.ndarray) -> np.ndarray:
        """Light of a point source at ``places``, pixels ``(2, epoch)`` from the middle, in each exposure."""
        if not len(flux):
            return np.zeros((0, STAMP_SIZE, STAMP_SIZE), np.float32)
        fine = 3 if self.fwhm.min() < _MAX_INTEGRATED_FWHM else 1
        light = self._profile(places, STAMP_SIZE, fine) * flux[:, None, None].astype(np.float32)
        return _binned(light, fine) / np.float32(fine**2)

    def extended(self, host: Sersic, shift: np.ndarray, scale: float) -> np.ndarray:
        """Fraction of a galaxy's light in each pixel, through the PSF."""
        fine, side = (
            3,
            STAMP_SIZE + 2 * _MARGIN_PIXELS,
        )  # odd, so that the middle is that of a sub-pixel
        axis = _axis(side, fine) * scale
        surface = host.surface(axis[None, :], axis[:, None]) * (scale / fine) ** 2
        psf = self._profile(shift, side, fine) / np.float32(fine**2)
        blurred = fft.irfft2(
            fft.rfft2(psf) * fft.rfft2(surface.astype(np.float32)), s=psf.shape[-2:]
        )
        # the PSF's middle is the array's, not its first pixel
        middle = side * fine // 2
        blurred = np.roll(blurred, (-middle, -middle), axis=(-2, -1))
        inner = slice(_MARGIN_PIXELS, _MARGIN_PIXELS + STAMP_SIZE)
        return np.maximum(_binned(blurred, fine)[:, inner, inner], 0).astype(np.float32)

    def _profile(self, places: np.ndarray, side: int, fine: int) -> np.ndarray:
        """PSF at each exposure's place, a pixel's worth: float32 ``(epoch, side · fine, side · fine)``."""
        axis = _axis(side, fine).astype(np.float32)
        x = axis[None, :] - places[0][:, None].astype(np.float32)
        y = axis[None, :] - places[1][:, None].astype(np.float32)
        minor = np.sqrt(1 - self.ellipticity)  # the area stays that of the round one
        c, s = np.cos(self.angle), np.sin(self.angle)
        xx = (c**2 * minor**2 + s**2 / minor**2).astype(np.float32)[:, None]
        yy = (s**2 * minor**2 + c**2 / minor**2).astype(np.float32)[:, None]
        xy = (2 * c * s * (minor**2 - 1 / minor**2)).astype(np.float32)[:, None, None]
        radius2 = (yy * y**2)[:, :, None] + (xx * x**2)[:, None, :]
        radius2 += xy * y[:, :, None] * x[:, None, :]
        if self.instrument.gaussian:
            sigma2 = ((self.fwhm / 2.3548) ** 2).astype(np.float32)[:, None, None]
            gaussian: np.ndarray = np.exp(-0.5 * radius2 / sigma2) / (2 * np.pi * sigma2)
            return gaussian
        beta = np.float32(self.instrument.beta)
        alpha2 = (self.fwhm**2 / (4 * (2 ** (1 / beta) - 1))).astype(np.float32)[:, None, None]
        # faster than a power of each pixel
        moffat: np.ndarray = np.exp(-beta * np.log1p(radius2 / alpha2))
        moffat *= (beta - 1) / (np.pi * alpha2)
        return moffat


def _axis(side: int, fine: int) -> np.ndarray:
    """Middles of ``side · fine`` sub-pixels, in pixels from the stamp's middle."""
    return (np.arange(side * fine) + 0.5) / fine - side / 2


def _binned(images: np.ndarray, fine: int) -> np.ndarray:
    if fine == 1:
        return images
    n, side = len(images), images.shape[-1] // fine
    summed: np.ndarray = images.reshape(n, side, fine, side, fine).sum(axis=(2, 4))
    return summed


def _neighbours(
    rng: np.random.Generator, instrument: Instrument, log: ObservingLog, crowding: float
) -> list[tuple[float, np.ndarray]]:
    """Stars that lie on the stamp by chance, fainter ones more often: magnitudes, and places in pixels."""
    area = (STAMP_SIZE * instrument.pixel_scale / 60) ** 2
    deepest = float(np.median(log.depth(instrument)))
    found = []
    for _ in range(rng.poisson(crowding * area)):
        magnitude = deepest - min(rng.exponential(1.5), 5.0)
        where = rng.uniform(-STAMP_SIZE / 2, STAMP_SIZE / 2, 2)
        if np.hypot(*where) > 3:  # what lies on the object itself would be it
            found.append((magnitude, where))
    return found


def _add_cosmic_rays(
    rng: np.random.Generator, electrons: np.ndarray, instrument: Instrument, log: ObservingLog
) -> None:
    """Put hits upon the pixels: sharp, short and straight, unconvolved by the PSF."""
    for epoch, hits in enumerate(
        rng.poisson(instrument.cosmic_rays * STAMP_SIZE**2 * log.exposure)
    ):
        for _ in range(hits):
            length, angle = rng.integers(1, 9), rng.uniform(0, np.pi)
            at = rng.uniform(0, STAMP_SIZE, 2)[:, None] + np.arange(length) * [
                [np.sin(angle)],
                [np.cos(angle)],
            ]
            rows, columns = at.astype(int)
            inside = (rows >= 0) & (rows < STAMP_SIZE) & (columns >= 0) & (columns < STAMP_SIZE)
            charge = rng.lognormal(np.log(1500), 0.7)
            electrons[epoch, rows[inside], columns[inside]] += charge
