"""Forced photometry on stamps: how bright an object is in each exposure, at the middle of its stamp.

An aperture and a PSF at a place that is known, as surveys do it for light curves (Masci et al. 2023,
arXiv:2305.16279): nothing is searched for, only the misalignment of an exposure is corrected for as far as its light
tells it. Overlaps of circles and pixels and the profile of the PSF are photutils' (Bradley et al.,
https://doi.org/10.5281/zenodo.596036); the fits are linear and are solved for all exposures at once, since photutils
fits star by star.

The PSF is a round Moffat profile with the width that the archive says. Where its wings or its shape differ, fluxes
are off by a factor that is the same for all stars of an exposure: in a survey it would go into the zero point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from photutils.geometry import circular_overlap_grid
from photutils.psf import MoffatPSF, fit_fwhm

from deepstreaks_dask.errors import DeepStreaksError

ZERO_POINT = 25.0
"""Magnitude of a calibrated flux of 1; and what a zero point is taken for that nobody knows."""

MOFFAT_BETA = 3.5
"""Exponent of the PSF's wings (Moffat 1969, A&A 3, 455), in the middle of what sites have (Trujillo et al. 2001)."""

_APERTURE_RATIO = (
    1.0  # radius over full width at half maximum: near the best for a faint star on the sky
)
_MIN_RADIUS = 2.0  # pixels: a smaller aperture would feel where in its pixel a star lies
MISALIGNMENT_SIGMA = 0.2
"""Pixels, standard deviation on each axis: how far exposures usually put an object from the middle of its stamp."""

_MAX_INTEGRATED_FWHM = 2.6  # pixels of FWHM up to which the PSF must be integrated over pixels
_RIM_PIXELS = 4  # pixels at the rims that say nothing of where a narrow PSF is
_SUBPIXELS = 3  # sub-pixels on a side, where it must
_DEFAULT_FWHM = 3.0  # pixels, where none is known nor can be measured
_FWHM_RANGE = 0.5, 15.0  # pixels of FWHM that can be
_CLIP_SIGMA = 4.0  # standard deviations of what is no sky, or no star
_SYSTEMATIC_FRACTION = 0.15  # of a star's light in a pixel: a PSF of another shape is no cosmic ray
_STAMPS_PER_BLOCK = 512  # stamps at once: what fits in a processor's cache is faster
_MAGNITUDE_PER_LN_FLUX = 2.5 / np.log(10)


@dataclass(frozen=True)
class Measured:
    """Fluxes of one method; NaN where a stamp says nothing.

    Attributes
    ----------
    counts, counts_error : ndarray
        Light of the whole object and its standard deviation, counts (ADU), float64 ``(epoch,)``.
    flux, flux_error : ndarray
        The same on one scale for all exposures: 1 is a magnitude of :data:`ZERO_POINT`.
    """

    counts: np.ndarray
    counts_error: np.ndarray
    flux: np.ndarray
    flux_error: np.ndarray

    @property
    def magnitude(self) -> np.ndarray:
        """Magnitudes ``(epoch,)``; NaN where the flux is not positive."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.flux > 0, ZERO_POINT - 2.5 * np.log10(self.flux), np.nan)

    @property
    def magnitude_error(self) -> np.ndarray:
        """Standard deviations ``(epoch,)`` of the magnitudes, to first order."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(
                self.flux > 0, _MAGNITUDE_PER_LN_FLUX * self.flux_error / self.flux, np.nan
            )

    @property
    def snr(self) -> np.ndarray:
        """Signal-to-noise ratio ``(epoch,)``."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.counts / self.counts_error


@dataclass(frozen=True)
class Photometry:
    """What was measured on some stamps: with an aperture, with a PSF, and of the sky.

    Attributes
    ----------
    aperture, psf : Measured
    sky, noise : ndarray
        Background and standard deviation of a pixel of it, counts, ``(epoch,)``.
    fwhm : ndarray
        Full width at half maximum of the PSF that was taken, pixels, ``(epoch,)``.
    """

    aperture: Measured
    psf: Measured
    sky: np.ndarray
    noise: np.ndarray
    fwhm: np.ndarray


def measure(
    stamps: np.ndarray,
    epochs: Mapping[str, np.ndarray],
    *,
    beta: float = MOFFAT_BETA,
    misalignment: float = MISALIGNMENT_SIGMA,
) -> Photometry:
    """Measure the object in the middle of each stamp.

    Parameters
    ----------
    stamps : ndarray
        ``(epoch, side, side)``, counts (ADU) with the sky; NaN where there is no number.
    epochs : mapping of str to ndarray
        Columns of :data:`~deepstreaks_dask.archive.schema.EPOCHS` of these stamps: ``fwhm`` in pixels, ``zero_point``,
        ``gain`` and ``read_noise``. One that is missing, or NaN, is not known: a width of 3 pixels is taken
        (:func:`measured_fwhm` finds a better one), a zero point of 25, noise from the scatter of the sky, and a source
        without a noise of its own.
    beta : float
        Exponent of the PSF's wings, above 1.
    misalignment : float
        Standard deviation of the object's place on each axis, pixels; 0 forces it into the very middle.

    Returns
    -------
    Photometry
        NaN where pixels are missing that hold more than half of the PSF's light.

    Raises
    ------
    DeepStreaksError
        If the stamps are not square or the columns not as long as they.

    Notes
    -----
    Where an exposure puts the object follows from a linear fit of the PSF's derivatives with a Gaussian prior of the
    width ``misalignment``: a faint one stays in the middle. The PSF's flux and a constant background are fitted by
    least squares with the variance of the sky, and once more with that of the model, without pixels that lie 4 standard
    deviations from it: cosmic rays and neighbours. The aperture has a radius of one full width at half maximum, at least
    2 pixels, the background is the clipped mean around it, and what the PSF has outside of the one and inside of the
    other is corrected for.
    """
    if stamps.ndim != 3 or stamps.shape[1] != stamps.shape[2]:
        raise DeepStreaksError(f"stamps of shape {stamps.shape}: give (epoch, side, side)")
    columns = {
        name: np.asarray(epochs.get(name, np.full(len(stamps), np.nan)), float)
        for name in ("fwhm", "zero_point", "gain", "read_noise")
    }
    if wrong := [name for name, values in columns.items() if values.shape != (len(stamps),)]:
        raise DeepStreaksError(f"{len(stamps)} stamps, but column {wrong[0]} is not as long")
    fwhm = columns["fwhm"]
    columns["fwhm"] = np.clip(np.where(np.isfinite(fwhm), fwhm, _DEFAULT_FWHM), *_FWHM_RANGE)
    found = np.full((6, len(stamps)), np.nan)
    narrow = columns["fwhm"] < _MAX_INTEGRATED_FWHM
    for group, fine in ((narrow, _SUBPIXELS), (~narrow, 1)):
        places = np.flatnonzero(group)
        for k in range(0, len(places), _STAMPS_PER_BLOCK):
            rows = places[k : k + _STAMPS_PER_BLOCK]
            some = {name: values[rows] for name, values in columns.items()}
            found[:, rows] = _measure_block(stamps[rows], some, beta, misalignment, fine)
    aperture, error, psf, psf_error, sky, noise = found
    zero_point = columns["zero_point"]
    scale = 10 ** (0.4 * (ZERO_POINT - np.where(np.isfinite(zero_point), zero_point, ZERO_POINT)))
    return Photometry(
        Measured(aperture, error, aperture * scale, error * scale),
        Measured(psf, psf_error, psf * scale, psf_error * scale),
        sky,
        noise,
        columns["fwhm"],
    )


def measured_fwhm(stamps: np.ndarray) -> float:
    """Measure the width of the PSF on an object's stamps, for archives that do not tell it.

    Parameters
    ----------
    stamps : ndarray
        ``(epoch, side, side)`` of one object.

    Returns
    -------
    float
        Full width at half maximum of a Gaussian on the median of the stamps, pixels; 3 where there is none to be seen.
    """
    known = stamps[np.isfinite(stamps).all(axis=(1, 2))]
    if not len(known):
        return _DEFAULT_FWHM
    stack = np.median(known, axis=0).astype(float)
    stack -= np.median(stack)
    inner = slice(len(stack) // 2 - 2, len(stack) // 2 + 3)
    if stack[inner, inner].max() < 5 * 1.4826 * np.median(np.abs(stack)):
        return _DEFAULT_FWHM
    middle = (len(stack) - 1) / 2
    width = float(fit_fwhm(stack, xypos=[(middle, middle)], fwhm=_DEFAULT_FWHM, fit_shape=9)[0])
    return width if _FWHM_RANGE[0] < width < _FWHM_RANGE[1] else _DEFAULT_FWHM


def _measure_block(
    stamps: np.ndarray,
    columns: Mapping[str, np.ndarray],
    beta: float,
    misalignment: float,
    fine: int,
) -> np.ndarray:
    """Return counts and errors of aperture and PSF, sky and noise of a pixel, ``(6, epoch)``."""
    n, side = len(stamps), stamps.shape[1]
    pixels = stamps.astype(float).reshape(n, -1)
    good = np.isfinite(pixels)
    pixels = np.where(good, pixels, 0.0)
    moffat = _Moffat(columns["fwhm"], beta, fine)
    away = _distance(side).ravel()
    around = _around(away, columns["fwhm"])
    level, scatter, of_sky = _background(pixels, good & around)
    gain = columns["gain"]
    per_count = np.where(gain > 0, 1 / np.where(gain > 0, gain, 1.0), 0.0)  # variance of one count
    read = columns["read_noise"] * per_count
    expected = np.sqrt(np.clip(level, 0, None) * per_count + read**2)
    # what the columns tell is less noisy than what a few pixels' scatter does
    noise = np.where(np.isfinite(expected) & (expected > 0), expected, scatter)
    noise = np.where(noise > 0, noise, 1.0)
    place = np.zeros((2, n))
    if misalignment > 0:
        place = _registered(pixels.reshape(stamps.shape), good, moffat, noise, misalignment)
    profile = moffat.profile(side, place)
    seen = (profile * good).sum(axis=1) > 0.5 * profile.sum(axis=1)
    psf, psf_error = _fit(pixels, good, profile, noise, per_count, away > columns["fwhm"][:, None])
    radius = np.maximum(_APERTURE_RATIO * columns["fwhm"], _MIN_RADIUS)
    inside = _circles(side, radius, place).reshape(n, -1) * good
    area, light = inside.sum(axis=1), (inside * profile).sum(axis=1)
    count = of_sky.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        wings = (of_sky * profile).sum(axis=1) / count
        held = light - area * wings
        aperture = ((inside * pixels).sum(axis=1) - area * level) / held
        shot = np.clip(aperture, 0, None) * per_count * light
        variance = noise**2 * ((inside**2).sum(axis=1) + area**2 / count) + shot
        error = np.sqrt(variance) / held
    nowhere = ~seen | (count < 8)
    found = np.stack([aperture, error, psf, psf_error, level, noise])
    found[:, nowhere] = np.nan
    return found


def _fit(
    pixels: np.ndarray,
    good: np.ndarray,
    profile: np.ndarray,
    noise: np.ndarray,
    per_count: np.ndarray,
    outer: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the flux of a PSF and a constant background to each stamp, ``(epoch, pixel)``: counts, and their errors."""
    weight = good / noise[:, None] ** 2
    counts, level, error = _solve(pixels, profile, weight)
    for _ in range(2):
        star = np.clip(counts, 0, None)[:, None] * profile
        variance = noise[:, None] ** 2 + star * per_count[:, None]
        residual = pixels - level[:, None] - counts[:, None] * profile
        limit = _CLIP_SIGMA * np.sqrt(variance) + _SYSTEMATIC_FRACTION * star
        # a profile with other wings must not cost a bright star its own core
        kept = good & ((np.abs(residual) < limit) | (~outer & (residual < 3 * limit)))
        counts, level, error = _solve(pixels, profile, kept / variance)
    return counts, error


def _solve(
    pixels: np.ndarray, profile: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Solve the two normal equations of each stamp: flux, background, standard deviation of the flux."""
    one, psf = weight.sum(axis=1), (weight * profile).sum(axis=1)
    square = (weight * profile**2).sum(axis=1)
    data, both = (weight * pixels).sum(axis=1), (weight * profile * pixels).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        determinant = one * square - psf**2
        flux = (one * both - psf * data) / determinant
        level = (square * data - psf * both) / determinant
        error = np.sqrt(one / determinant)
    return flux, level, error


def _background(pixels: np.ndarray, where: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clipped mean and scatter of some pixels of each stamp ``(epoch, pixel)``, and which of them were kept."""
    kept = where
    for _ in range(2):
        values = np.where(kept, pixels, np.nan)
        empty = ~kept.any(axis=1)
        values[empty] = 0.0
        middle = np.nanmedian(values, axis=1, keepdims=True)
        scatter = 1.4826 * np.nanmedian(np.abs(values - middle), axis=1, keepdims=True)
        kept = where & (np.abs(pixels - middle) <= _CLIP_SIGMA * np.maximum(scatter, 1e-12))
    count = np.maximum(kept.sum(axis=1), 1)
    mean = np.where(kept, pixels, 0).sum(axis=1) / count
    # not the median's deviation: of whole counts that is a whole number, too
    spread = np.where(kept, pixels - mean[:, None], 0)
    return mean, np.sqrt((spread**2).sum(axis=1) / count), kept


def _around(away: np.ndarray, fwhm: np.ndarray) -> np.ndarray:
    """Pixels of the sky around each star: beyond two widths, but as many of them as a stamp of its size has."""
    inner = np.minimum(np.maximum(2 * fwhm, 5.0), away.max() * 0.55)
    return away > inner[:, None]


def _distance(side: int) -> np.ndarray:
    axis = np.arange(side) - (side - 1) / 2
    return np.hypot(axis[:, None], axis[None, :])


def _circles(side: int, radius: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Share of each pixel that lies within a circle around each star, ``(epoch, side, side)``."""
    half = side / 2
    grids = [
        circular_overlap_grid(-half - x, half - x, -half - y, half - y, side, side, r, 1, 1)
        for r, (x, y) in zip(radius, place.T, strict=True)
    ]
    return np.stack(grids) if grids else np.zeros((0, side, side))


def _registered(
    pixels: np.ndarray, good: np.ndarray, moffat: _Moffat, noise: np.ndarray, prior: float
) -> np.ndarray:
    """Where each exposure puts the object, pixels ``(2, epoch)`` from the middle: the most probable place."""
    n, side = pixels.shape[:2]
    inner = slice(_RIM_PIXELS, side - _RIM_PIXELS) if moffat.fine > 1 else slice(0, side)
    pixels = pixels[:, inner, inner].reshape(n, -1)
    weight = good.reshape(n, side, side)[:, inner, inner].reshape(n, -1) / noise[:, None] ** 2
    place = np.zeros((2, n))
    for _ in range(2):
        profile, along_x, along_y = moffat.with_slopes(len(range(side)[inner]), place)
        flux, level, error = _solve(pixels, profile, weight)
        bright = np.where(flux > 3 * error, flux, 0.0)  # what is not seen has no place
        residual = (pixels - level[:, None] - flux[:, None] * profile) * weight
        xx, yy, xy = (
            (weight * a * b).sum(axis=1) * bright**2 + (c / prior**2)
            for a, b, c in ((along_x, along_x, 1), (along_y, along_y, 1), (along_x, along_y, 0))
        )
        right, up = (
            (residual * slope).sum(axis=1) * bright - at / prior**2
            for slope, at in zip((along_x, along_y), place, strict=True)
        )
        determinant = xx * yy - xy**2
        step = np.stack([yy * right - xy * up, xx * up - xy * right]) / determinant
        place = np.clip(place + step, -3 * prior, 3 * prior)
    return place


class _Moffat:
    """The PSF of each exposure, light a pixel: ``(epoch, pixel)``."""

    def __init__(self, fwhm: np.ndarray, beta: float, fine: int) -> None:
        alpha = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
        self.alpha = alpha.astype(np.float32)[:, None, None]  # single precision: twice as fast
        self.beta, self.fine = beta, fine

    def profile(self, side: int, place: np.ndarray) -> np.ndarray:
        """Share of a star's light in each pixel, the star ``place`` pixels ``(2, epoch)`` from the middle."""
        return self._binned(self._light(side, place)[0])

    def with_slopes(
        self, side: int, place: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the profile, and its derivatives along x and along y."""
        light, x, y = self._light(side, place)
        steep = 2 * self.beta * light / (self.alpha**2 + x**2 + y**2)
        return self._binned(light), self._binned(steep * x), self._binned(steep * y)

    def _light(self, side: int, place: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        axis = ((np.arange(side * self.fine) + 0.5) / self.fine - side / 2).astype(np.float32)
        place = place.astype(np.float32)
        x, y = (
            axis[None, None, :] - place[0, :, None, None],
            axis[:, None] - place[1, :, None, None],
        )
        return MoffatPSF().evaluate(x, y, 1.0, 0.0, 0.0, self.alpha, self.beta), x, y

    def _binned(self, values: np.ndarray) -> np.ndarray:
        rows = _sum([values[:, k :: self.fine] for k in range(self.fine)])
        pixels = _sum([rows[:, :, k :: self.fine] for k in range(self.fine)])
        flat: np.ndarray = pixels.reshape(len(values), -1) / np.float32(self.fine**2)
        return flat


def _sum(parts: list[np.ndarray]) -> np.ndarray:
    total: np.ndarray = parts[0] if len(parts) == 1 else np.add(parts[0], parts[1])
    for part in parts[2:]:
        total += part
    return total
