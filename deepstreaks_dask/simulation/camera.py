"""The camera: sky, point sources, image subtraction, masks, display stretch and JPEG.

A scene is kept in electrons on the detector's own pixels (1.01 arcsec for ZTF; Bellm et al. 2019, PASP 131, 018002).
The science exposure gets Poisson noise from everything that shines plus read noise; the reference image, a deeper
stack with its own noise, slightly other PSF and slightly other astrometry, is subtracted. Star
residuals ("dipoles") are therefore not drawn: they follow from the subtraction.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

PIXEL_SCALE = 1.01
"""Arcseconds a pixel of the ZTF camera."""

FWHM_PER_SIGMA = 2.3548200450309493


@dataclass(frozen=True)
class Conditions:
    """What the sky and the instrument did during one exposure.

    Attributes
    ----------
    fwhm : float
        Seeing, full width at half maximum of the PSF, in pixels.
    sky : float
        Sky background of the exposure, electrons a pixel.
    read_noise : float
        Electrons a pixel, root mean square.
    reference_depth : float
        Number of exposures stacked in the reference image.
    stars : float
        Mean number of stars on a 157 x 157 px cutout that are bright enough to leave a residual.
    misalignment : float
        Typical astrometric offset between exposure and reference, pixels.
    """

    fwhm: float
    sky: float
    read_noise: float
    reference_depth: float
    stars: float
    misalignment: float

    @property
    def sigma(self) -> float:
        """Width of the PSF's core as a Gaussian standard deviation, pixels."""
        return self.fwhm / FWHM_PER_SIGMA

    @property
    def noise(self) -> float:
        """Standard deviation of an empty pixel of the difference image, electrons."""
        one = self.sky + self.read_noise**2
        return float(np.sqrt(one * (1 + 1 / self.reference_depth)))


@lru_cache(maxsize=64)
def pixel_grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates ``(y, x)`` of a square cutout, counted from its middle."""
    axis = np.arange(size, dtype=np.float32) - (size - 1) / 2
    return np.meshgrid(axis, axis, indexing="ij")


@dataclass
class Scene:
    """One cutout under construction, in electrons.

    All are float64 ``(y, x)``, ``masked`` bool. ``light`` shines through the optics into the science exposure only;
    ``science_stars`` and ``reference_stars`` are what the two images see of the same stars; ``sharp`` is charge
    that never passed the optics (cosmic rays, bleeding, bad columns); ``masked`` pixels carry no data.
    """

    conditions: Conditions
    size: int
    rng: np.random.Generator
    light: np.ndarray = field(init=False)
    science_stars: np.ndarray = field(init=False)
    reference_stars: np.ndarray = field(init=False)
    sharp: np.ndarray = field(init=False)
    masked: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        shape = (self.size, self.size)
        self.light = np.zeros(shape, np.float32)
        self.science_stars = np.zeros(shape, np.float32)
        self.reference_stars = np.zeros(shape, np.float32)
        self.sharp = np.zeros(shape, np.float32)
        self.masked = np.zeros(shape, bool)

    @property
    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixel coordinates ``(y, x)`` from the cutout's middle."""
        return pixel_grid(self.size)

    def add_star(self, x: float, y: float, flux: float, shift: tuple[float, float]) -> None:
        """Put one star in both images, the reference displaced by ``shift`` pixels.

        Parameters
        ----------
        x, y : float
            Pixels from the cutout's middle.
        flux : float
            Electrons.
        shift : (float, float)
            Pixels.
        """
        c, rng = self.conditions, self.rng
        mismatch = 1 + rng.normal(0, 0.03)
        gain = 1 + rng.normal(0, 0.015)
        _add_moffat(self.science_stars, x, y, flux, c.fwhm)
        _add_moffat(
            self.reference_stars, x + shift[0], y + shift[1], flux * gain, c.fwhm * mismatch
        )
        if rng.random() < 0.3:  # the matching kernel rings where it is badly constrained
            _add_ringing(self.sharp, x, y, 0.02 * flux * rng.random(), c.fwhm, rng)

    def add_field_stars(self) -> None:
        """Scatter the field's stars, bright ones rarer, with one common astrometric offset."""
        c, rng = self.conditions, self.rng
        half = self.size / 2
        common = rng.normal(0, c.misalignment, 2)
        for _ in range(rng.poisson(c.stars * (self.size / 157) ** 2)):
            x, y = rng.uniform(-half, half, 2)
            flux = min(20 * c.noise * (1 - rng.random()) ** -1.1, 6000 * c.noise)
            dx, dy = common + rng.normal(0, 0.3 * c.misalignment, 2)
            self.add_star(x, y, flux, (dx, dy))
            if flux > 1500 * c.noise and rng.random() < 0.8:
                side = rng.uniform(5, 20)
                self.mask_box(x - side, x + side, y - side, y + side)

    def mask_box(self, x0: float, x1: float, y0: float, y1: float) -> None:
        """Mask a rectangle given in pixels from the cutout's middle.

        Parameters
        ----------
        x0, x1, y0, y1 : float
            Pixels from the cutout's middle.
        """
        half = (self.size - 1) / 2
        i0, i1 = sorted(int(np.clip(round(v + half), 0, self.size)) for v in (y0, y1))
        j0, j1 = sorted(int(np.clip(round(v + half), 0, self.size)) for v in (x0, x1))
        self.masked[i0:i1, j0:j1] = True

    def difference(self) -> np.ndarray:
        """Expose, subtract the reference and return the difference image ``(y, x)`` in electrons."""
        c, rng = self.conditions, self.rng
        expected = c.sky + np.clip(self.light + self.science_stars, 0, None)
        science = rng.poisson(expected) + rng.normal(0, c.read_noise, expected.shape)
        variance = (c.sky + self.reference_stars + c.read_noise**2) / c.reference_depth
        reference = c.sky + self.reference_stars
        reference = reference + np.sqrt(variance) * rng.standard_normal(variance.shape)
        return (science - reference + self.sharp).astype(np.float32)


def _window(image: np.ndarray, x: float, y: float, radius: float) -> tuple[slice, slice]:
    half = (image.shape[0] - 1) / 2
    i, j, r = round(y + half), round(x + half), int(np.ceil(radius))
    rows = slice(max(i - r, 0), max(i + r + 1, 0))
    columns = slice(max(j - r, 0), max(j + r + 1, 0))
    return rows, columns


def _add_moffat(image: np.ndarray, x: float, y: float, flux: float, fwhm: float) -> None:
    beta = 3.0
    alpha = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
    rows, columns = _window(image, x, y, 9 * fwhm)
    gy, gx = pixel_grid(image.shape[0])
    r2 = (gx[rows, columns] - x) ** 2 + (gy[rows, columns] - y) ** 2
    image[rows, columns] += (
        flux * (beta - 1) / (np.pi * alpha**2) * (1 + r2 / alpha**2) ** -beta
    ).astype(np.float32)


def _add_ringing(
    image: np.ndarray, x: float, y: float, flux: float, fwhm: float, rng: np.random.Generator
) -> None:
    sigma = fwhm / FWHM_PER_SIGMA * rng.uniform(1.0, 1.8)
    rows, columns = _window(image, x, y, 4 * sigma)
    gy, gx = pixel_grid(image.shape[0])
    dx, dy = gx[rows, columns] - x, gy[rows, columns] - y
    angle, wave = rng.uniform(0, np.pi), rng.uniform(1.8, 3.0)
    phase = 2 * np.pi / wave * (dx * np.cos(angle) + dy * np.sin(angle))
    envelope = np.exp(-0.5 * (dx**2 + dy**2) / sigma**2) / (2 * np.pi * sigma**2)
    image[rows, columns] += (flux * envelope * np.cos(phase)).astype(np.float32)


@dataclass(frozen=True)
class Display:
    """How a difference image became the 8-bit picture that the networks see.

    Attributes
    ----------
    below, above : float
        The stretch runs from ``below`` noise sigmas under the sky (white) to ``above`` over it (black).
        The real ZTF cutouts at hand show about 2.5 and 10.
    mask_level : float
        Where masked pixels are painted, in noise sigmas from the sky.
    quality : int or None
        JPEG quality; None leaves the picture uncompressed.
    resampled : int or None
        Side in pixels of a screen copy, None for the native picture.
    smoothing : float
        Standard deviation in pixels of a blur of the whole difference image (resampled mosaics).
    """

    below: float
    above: float
    mask_level: float
    quality: int | None
    resampled: int | None
    smoothing: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Display:
        """Draw a display setting: most like the survey's own, one in three anything plausible."""
        if rng.random() < 0.67:
            below, above = rng.normal(2.5, 0.15), rng.normal(10.2, 0.6)
        else:
            below, above = rng.uniform(1.6, 4.0), rng.uniform(5.0, 18.0)
        return cls(
            below=below,
            above=above,
            mask_level=rng.normal(-0.05, 0.1) if rng.random() < 0.95 else rng.uniform(-4, 4),
            quality=int(rng.integers(70, 97)) if rng.random() < 0.75 else None,
            resampled=int(rng.integers(124, 180)) if rng.random() < 0.3 else None,
            smoothing=rng.uniform(0.3, 0.6) if rng.random() < 0.12 else 0.0,
        )

    def develop(self, scene: Scene, rng: np.random.Generator) -> Image.Image:
        """Turn a scene into a grey picture, sources dark on light grey as ZTF's are.

        Parameters
        ----------
        scene : Scene
            Electrons.
        rng : numpy.random.Generator
            Draws the noise.

        Returns
        -------
        PIL.Image.Image
            8 bits, grey.
        """
        difference = scene.difference()
        noise = scene.conditions.noise
        if self.smoothing:
            difference = gaussian_filter(difference, self.smoothing)
            noise *= _smoothed_noise(self.smoothing)
        signal = difference / noise
        signal[scene.masked] = self.mask_level
        grey = 255 * (self.above - signal) / (self.above + self.below)
        picture = Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8), mode="L")
        if self.resampled:
            kernels = (
                Image.Resampling.BILINEAR,
                Image.Resampling.BICUBIC,
                Image.Resampling.NEAREST,
            )
            kernel = kernels[rng.integers(len(kernels))]
            picture = picture.resize((self.resampled, self.resampled), kernel)
        if self.quality:
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=self.quality)
            picture = Image.open(buffer)
            picture.load()
        return picture


@lru_cache(maxsize=256)
def _smoothed_noise(sigma: float) -> float:
    impulse = np.zeros((15, 15))
    impulse[7, 7] = 1
    return float(np.sqrt((gaussian_filter(impulse, sigma) ** 2).sum()))
