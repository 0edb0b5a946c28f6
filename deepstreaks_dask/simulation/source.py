"""A simulated source: its light over time and its host."""

from __future__ import annotations

from dataclasses import dataclass
from math import gamma

import numpy as np

from deepstreaks_dask.simulation.surveys import ObservingLog

_AMPLITUDE_RATIOS = {
    "g": 1.0,
    "r": 0.72,
    "i": 0.57,
    "C": 0.85,
}  # of pulsators (Madore & Freedman 1991)


@dataclass(frozen=True)
class Sersic:
    """A galaxy (Sérsic 1963; Graham & Driver 2005, PASA 22, 118).

    Attributes
    ----------
    magnitude : float
        Of the whole galaxy, mag.
    radius : float
        Effective radius along the major axis, arcseconds.
    index : float
        Sérsic index: 1 an exponential disc, 4 de Vaucouleurs' law.
    axis_ratio, angle : float
        Minor over major axis; position angle in radians.
    x, y : float
        Its middle from the stamp's, arcseconds.
    """

    magnitude: float
    radius: float
    index: float
    axis_ratio: float
    angle: float
    x: float = 0.0
    y: float = 0.0

    @classmethod
    def draw(cls, rng: np.random.Generator, magnitude: float) -> Sersic:
        """Draw a galaxy; fainter ones are smaller.

        Parameters
        ----------
        rng : numpy.random.Generator
            Draws shape and size.
        magnitude : float
            Of all its light, mag.

        Returns
        -------
        Sersic
            A galaxy.
        """
        return cls(
            magnitude,
            radius=float(
                np.clip(rng.lognormal(np.log(1.6) - 0.12 * (magnitude - 19), 0.4), 0.3, 12)
            ),
            index=float(np.clip(rng.lognormal(np.log(1.8), 0.45), 0.5, 4.5)),
            axis_ratio=float(rng.uniform(0.3, 1.0)),
            angle=float(rng.uniform(0, np.pi)),
        )

    def surface(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the fraction of the light a square arcsecond at ``x``, ``y`` arcseconds from the stamp's middle.

        Parameters
        ----------
        x, y : ndarray
            Arcseconds from the stamp's middle, ``(y, x)`` or of any one shape.

        Returns
        -------
        ndarray
            Fraction an arcsecond squared, ``(y, x)`` or of the shape of ``x``.
        """
        dx, dy = x - self.x, y - self.y
        c, s = np.cos(self.angle), np.sin(self.angle)
        along, across = c * dx + s * dy, (c * dy - s * dx) / self.axis_ratio
        n = self.index
        b = 2 * n - 1 / 3 + 4 / (405 * n)  # Ciotti & Bertin 1999, A&A 352, 447
        total = 2 * np.pi * n * self.radius**2 * self.axis_ratio * b ** (-2 * n) * gamma(2 * n)
        softened = np.sqrt(along**2 + across**2 + (0.03 * self.radius) ** 2) / self.radius
        profile: np.ndarray = np.exp(-b * softened ** (1 / n)) / total
        return profile


@dataclass(frozen=True)
class Source:
    """What is at the middle of a stamp.

    Attributes
    ----------
    magnitude : ndarray
        Of the point source in each exposure, mag ``(epoch,)``; infinite where it does not shine.
    x, y : ndarray
        Where it is in each exposure, arcseconds from the middle, ``(epoch,)``.
    host : Sersic or None
        A galaxy there.
    trail : (float, float)
        Arcseconds a second that it moves along x and y.
    """

    magnitude: np.ndarray
    x: np.ndarray
    y: np.ndarray
    host: Sersic | None = None
    trail: tuple[float, float] = (0.0, 0.0)

    @property
    def brightness(self) -> np.ndarray:
        """Magnitude ``(epoch,)`` of everything that is seen within a stamp: of the point source, or of a galaxy alone."""
        if self.host is not None and np.isinf(self.magnitude).all():
            return np.full(len(self.magnitude), self.host.magnitude)
        return self.magnitude


def stationary_source(magnitude: np.ndarray, host: Sersic | None = None) -> Source:
    """Return a source that does not move.

    Parameters
    ----------
    magnitude : ndarray
        Magnitude in each exposure, mag ``(epoch,)``; infinite where the source does not shine.
    host : Sersic, optional
        Galaxy around the source.

    Returns
    -------
    Source
        In the middle of the stamp.
    """
    zeros = np.zeros(len(magnitude))
    return Source(magnitude, zeros, zeros, host)


def random_phases(rng: np.random.Generator, log: ObservingLog, period: float) -> np.ndarray:
    """Compute the phase of each exposure, from a random phase of the first on.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the first phase.
    log : ObservingLog
        Exposures.
    period : float
        Days.

    Returns
    -------
    ndarray
        Radians, ``(epoch,)``.
    """
    turns: np.ndarray = 2 * np.pi * ((log.mjd - log.mjd[0]) / period + rng.random()) % (2 * np.pi)
    return turns


def fourier_light_curve(
    rng: np.random.Generator,
    log: ObservingLog,
    period: float,
    amplitude: float,
    ratios: np.ndarray,
    phases: np.ndarray,
    *,
    chromatic: bool = True,
) -> np.ndarray:
    """Compute magnitudes around the mean: a cosine and its harmonics.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the phase of the first exposure.
    log : ObservingLog
        Exposures.
    period : float
        Days.
    amplitude : float
        From minimum to maximum, mag.
    ratios : ndarray
        Amplitudes of the harmonics over that of the fundamental, ``(harmonic,)``.
    phases : ndarray
        Phases of the harmonics, radians, ``(harmonic,)``.
    chromatic : bool
        Scale the amplitude by band, as of pulsators.

    Returns
    -------
    ndarray
        Magnitude around the mean, mag, ``(epoch,)``.
    """
    ratios, phases = np.concatenate([[1.0], ratios]), np.concatenate([[0.0], phases])
    orders = np.arange(1, len(ratios) + 1)

    def series(turns: np.ndarray) -> np.ndarray:
        total: np.ndarray = (ratios * np.cos(turns[:, None] * orders + phases)).sum(axis=1)
        return total

    whole = series(np.linspace(0, 2 * np.pi, 100))
    factor = np.array([_AMPLITUDE_RATIOS.get(band, 1.0) if chromatic else 1.0 for band in log.band])
    curve: np.ndarray = amplitude * factor * series(random_phases(rng, log, period)) / np.ptp(whole)
    return curve


def damped_random_walk(
    rng: np.random.Generator, mjd: np.ndarray, scale: float, amplitude: float
) -> np.ndarray:
    """Sample a damped random walk exactly (Kelly, Bechtold & Siemiginowska 2009, ApJ 698, 895).

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the walk.
    mjd : ndarray
        Times, days, ``(epoch,)``.
    scale : float
        Damping time, days.
    amplitude : float
        Structure function at long times, mag: the standard deviation is its 1 / sqrt(2).

    Returns
    -------
    ndarray
        Magnitude around the mean, mag, ``(epoch,)``.
    """
    sigma = amplitude / np.sqrt(2)
    decay = np.exp(-np.diff(mjd) / scale)
    kicks = rng.normal(0, sigma, len(mjd))
    walk = np.empty(len(mjd))
    walk[0] = kicks[0]
    for k, keep in enumerate(decay, start=1):
        walk[k] = keep * walk[k - 1] + np.sqrt(1 - keep**2) * kicks[k]
    return walk
