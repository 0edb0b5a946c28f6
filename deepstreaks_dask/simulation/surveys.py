"""Surveys to simulate: an instrument, and a log of when it looked and through which sky.

The instruments have round numbers near the published ones, and the logs are *generated* with a cadence, a seeing and
a sky like the survey's: none is a log of the survey. A log of one's own is read with :meth:`ObservingLog.read`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.readers.tables import read_frame

_LOG_RANGES = {
    "mjd": (15000.0, 100000.0),
    "seeing": (0.05, 30.0),
    "sky": (5.0, 30.0),
    "airmass": (1.0, 40.0),
    "exposure": (0.001, 1e5),
    "cloud": (0.0, 10.0),
}
_MAX_EPOCHS = 100_000


class SimulationError(DeepStreaksError):
    """What was asked for cannot be simulated."""


@dataclass(frozen=True)
class Instrument:
    """A telescope with its camera.

    Attributes
    ----------
    pixel_scale : float
        Arcseconds a pixel.
    gain : float
        Electrons a count (ADU).
    read_noise : float
        Electrons a pixel, standard deviation.
    saturation : float
        Counts at which a pixel is full.
    zero_points : mapping of str to float
        For each band the magnitude that gives one electron a second above the atmosphere.
    extinction : mapping of str to float
        Magnitudes an airmass.
    beta : float
        Exponent of the PSF's wings, a Moffat profile (Moffat 1969, A&A 3, 455); above 20 it is a Gaussian.
    ellipticity : float
        Typical ellipticity of the PSF, one minus the ratio of its axes.
    misalignment : float
        Standard deviation in pixels, on each axis, of where an exposure puts the object.
    cosmic_rays : float
        Hits a pixel and second.
    """

    pixel_scale: float
    gain: float
    read_noise: float
    saturation: float
    zero_points: Mapping[str, float]
    extinction: Mapping[str, float]
    beta: float = 4.0
    ellipticity: float = 0.03
    misalignment: float = 0.15
    cosmic_rays: float = 1e-7

    @property
    def gaussian(self) -> bool:
        """Whether the wings of the PSF are a Gaussian's."""
        return self.beta > 20

    def noise_area(self, fwhm: np.ndarray) -> np.ndarray:
        """Pixels of pure background whose noise equals that of PSF photometry (King 1983, PASP 95, 163).

        Parameters
        ----------
        fwhm : ndarray
            Of the PSF, pixels, ``(epoch,)``.

        Returns
        -------
        ndarray
            Pixels ``(epoch,)``.
        """
        if self.gaussian:
            return 4 * np.pi * (fwhm / 2.3548) ** 2
        alpha = fwhm / (2 * np.sqrt(2 ** (1 / self.beta) - 1))
        return np.pi * alpha**2 * (2 * self.beta - 1) / (self.beta - 1) ** 2


@dataclass(frozen=True)
class ObservingLog:
    """What a survey noted of its exposures of one place on the sky, in the order of their times.

    Attributes
    ----------
    mjd : ndarray
        Modified Julian dates (UTC) of mid-exposure, days, ``(epoch,)``.
    band : ndarray of str
        Filters ``(epoch,)``.
    seeing : ndarray
        Full width at half maximum of the PSF, arcseconds, ``(epoch,)``.
    sky : ndarray
        Sky brightness, magnitudes a square arcsecond, ``(epoch,)``.
    airmass, exposure : ndarray
        Airmass, and exposure time in seconds, ``(epoch,)``.
    cloud : ndarray
        Magnitudes that clouds take from all objects, ``(epoch,)``.
    """

    mjd: np.ndarray
    band: np.ndarray
    seeing: np.ndarray
    sky: np.ndarray
    airmass: np.ndarray
    exposure: np.ndarray
    cloud: np.ndarray

    def __len__(self) -> int:
        return len(self.mjd)

    @classmethod
    def read(cls, path: Path, instrument: Instrument) -> ObservingLog:
        """Read a log from a table with columns named like the attributes, and ``filter`` in place of ``band``.

        Parameters
        ----------
        path : Path
            CSV, Parquet or ECSV; a row an exposure. Without a column ``cloud`` there was none.
        instrument : Instrument
            Whose bands it may name.

        Returns
        -------
        ObservingLog
            In the order of the times.

        Raises
        ------
        ReaderError, SimulationError
            If the table cannot be read; which column, or value, is missing or cannot be.
        """
        frame = read_frame(path, extra=tuple(_LOG_RANGES))
        if "cloud" not in frame:
            frame["cloud"] = 0.0
        if missing := sorted({*_LOG_RANGES, "filter"} - set(frame)):
            raise SimulationError(f"log {path} has no column {', '.join(missing)}: add it")
        if not 1 <= len(frame) <= _MAX_EPOCHS:
            raise SimulationError(f"log {path} has {len(frame)} rows: give 1 to {_MAX_EPOCHS:,}")
        columns = {"band": frame["filter"].astype(str).to_numpy(object)}
        if unknown := sorted(set(columns["band"]) - set(instrument.zero_points)):
            raise SimulationError(
                f"log {path}: filter {unknown[0]!r} is none of {', '.join(instrument.zero_points)}"
            )
        for name, (low, high) in _LOG_RANGES.items():
            values = frame[name].to_numpy(float)
            if not ((values >= low) & (values <= high)).all():
                raise SimulationError(f"log {path}: {name} goes from {low:g} to {high:g}")
            columns[name] = values
        return cls(**columns).take(np.argsort(columns["mjd"], kind="stable"))

    def take(self, rows: np.ndarray) -> ObservingLog:
        """Give a log of some of the exposures, by their numbers or as bool ``(epoch,)``."""
        return ObservingLog(**{name: values[rows] for name, values in vars(self).items()})

    def fwhm(self, instrument: Instrument) -> np.ndarray:
        """Full width at half maximum of the PSF, pixels ``(epoch,)``."""
        return self.seeing / instrument.pixel_scale

    def electrons(self, instrument: Instrument, magnitude: np.ndarray | float) -> np.ndarray:
        """Electrons that an object of a magnitude gives in each exposure.

        Parameters
        ----------
        instrument : Instrument
            That took them.
        magnitude : ndarray or float
            Of the object, mag: a scalar, or in each exposure ``(epoch,)``.

        Returns
        -------
        ndarray
            Electrons ``(epoch,)``.
        """
        zero = np.array([instrument.zero_points[band] for band in self.band])
        loss = np.array([instrument.extinction[band] for band in self.band]) * self.airmass
        loss += self.cloud
        return self.exposure * 10 ** (-0.4 * (magnitude - zero + loss))

    def sky_electrons(self, instrument: Instrument) -> np.ndarray:
        """Electrons a pixel that the sky gives in each exposure ``(epoch,)``."""
        zero = np.array([instrument.zero_points[band] for band in self.band])
        rate = 10 ** (-0.4 * (self.sky - zero)) * instrument.pixel_scale**2
        return self.exposure * rate

    def zero_point(self, instrument: Instrument) -> np.ndarray:
        """Magnitude of an object that gives one count (ADU) in each exposure ``(epoch,)``."""
        return 2.5 * np.log10(self.electrons(instrument, 0.0) / instrument.gain)

    def noise(self, instrument: Instrument) -> np.ndarray:
        """Standard deviation of an empty pixel, counts (ADU), in each exposure ``(epoch,)``."""
        variance = self.sky_electrons(instrument) + instrument.read_noise**2
        return np.sqrt(variance) / instrument.gain

    def snr(self, instrument: Instrument, magnitude: np.ndarray | float) -> np.ndarray:
        """Signal-to-noise ratio that PSF photometry of a point source is to reach in each exposure.

        Parameters
        ----------
        instrument : Instrument
            That took them.
        magnitude : ndarray or float
            Of the object, mag: a scalar, or in each exposure ``(epoch,)``.

        Returns
        -------
        ndarray
            ``(epoch,)``.
        """
        flux = self.electrons(instrument, magnitude)
        area = instrument.noise_area(self.fwhm(instrument))
        background = (self.noise(instrument) * instrument.gain) ** 2 * area
        return flux / np.sqrt(flux + background)

    def depth(self, instrument: Instrument) -> np.ndarray:
        """Magnitude of a point source at five times the background's noise, in each exposure ``(epoch,)``."""
        area = instrument.noise_area(self.fwhm(instrument))
        faintest = 5 * self.noise(instrument) * instrument.gain * np.sqrt(area)
        return 2.5 * np.log10(self.electrons(instrument, 0.0) / faintest)


@dataclass(frozen=True)
class Shift:
    """How another survey differs from the one that a network was trained for.

    Attributes
    ----------
    seeing : float
        Factor on the seeing, which has no unit.
    sky : float
        Magnitudes that the sky is darker.
    kept : float
        Fraction of the exposures that are there.
    read_noise, misalignment : float
        Factors on these, which have no unit.
    beta, ellipticity : float
        Of the PSF, in place of the instrument's.
    """

    seeing: float = 1.3
    sky: float = -0.7
    kept: float = 0.6
    read_noise: float = 1.6
    misalignment: float = 2.0
    beta: float = 2.5
    ellipticity: float = 0.12

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Shift:
        """Draw a survey that differs in everything at once; the one that stands above lies within, but far from the middle.

        To train with such is domain randomisation (Tobin et al. 2017, arXiv:1703.06907).
        """
        return cls(
            seeing=rng.uniform(0.8, 1.4),
            sky=rng.uniform(-1.0, 0.5),
            kept=rng.uniform(0.5, 1.0),
            read_noise=rng.uniform(0.7, 2.0),
            misalignment=rng.uniform(0.5, 2.5),
            beta=rng.uniform(2.2, 5.0),
            ellipticity=rng.uniform(0.0, 0.16),
        )


@dataclass(frozen=True)
class Survey:
    """A survey: its instrument, its logs, the brightest objects it keeps, and how crowded it is.

    Attributes
    ----------
    name : str
        As :func:`get_survey` knows it.
    instrument : Instrument
    generate : callable
        Draws a log from a random generator.
    brightest : float
        Magnitude above which it saturates too often.
    crowding : float
        Stars a square arcminute that are bright enough to be seen; at the galactic pole, where ``lowest`` is given.
    lowest : float
        Degrees from the plane of the Galaxy that it keeps away from; NaN of one that looks at one place only.
    told : bool
        Whether it publishes, with its stamps, zero points, seeing, sky, exposure times, gain and read noise.
    varied : bool
        Each object is seen by another survey, that differs from this one by a shift drawn for it.
    """

    name: str
    instrument: Instrument
    generate: Callable[[np.random.Generator], ObservingLog]
    brightest: float
    crowding: float
    lowest: float = np.nan
    told: bool = True
    varied: bool = False

    def drawn(self, rng: np.random.Generator) -> Survey:
        """Give the survey that sees the next object: this one, or one drawn anew."""
        return replace(self, varied=False).shifted(Shift.draw(rng)) if self.varied else self

    def crowding_at(self, rng: np.random.Generator, *, disc: bool) -> float:
        """Draw how crowded the sky is around an object.

        Stars in a plane-parallel disc are as many as ``1 / sin |b|`` (about what Bahcall & Soneira 1980, ApJS 44, 73, count
        at 20 mag). What lies far beyond, or very near, is as often in all directions; of what is of the disc itself there is
        the more towards the plane, as ``1 / sin² |b|``, between the constant of a nearby sample and the third
        power of one that reaches out of the disc.

        Parameters
        ----------
        rng : numpy.random.Generator
            Draws the galactic latitude.
        disc : bool
            Whether the object is of the disc and can be seen far away in it.

        Returns
        -------
        float
            Stars a square arcminute.
        """
        if np.isnan(self.lowest):
            return self.crowding
        least, share = np.sin(np.radians(self.lowest)), rng.random()
        height = 1 / (1 / least - share * (1 / least - 1)) if disc else least + share * (1 - least)
        return float(self.crowding / height)

    def with_log(self, log: ObservingLog) -> Survey:
        """Give the same survey with one log of its own for all objects."""
        return replace(self, generate=_Always(log))

    def shifted(self, shift: Shift | None = None) -> Survey:
        """Give a survey that differs from this one, to test what a network keeps when it moves."""
        shift = shift or Shift()
        instrument = replace(
            self.instrument,
            read_noise=self.instrument.read_noise * shift.read_noise,
            misalignment=self.instrument.misalignment * shift.misalignment,
            beta=shift.beta,
            ellipticity=shift.ellipticity,
        )
        generate = _Shifted(self.generate, shift)
        return replace(self, name=f"{self.name}-shifted", instrument=instrument, generate=generate)


@dataclass(frozen=True)
class _Always:
    log: ObservingLog

    def __call__(self, rng: np.random.Generator) -> ObservingLog:
        return self.log


@dataclass(frozen=True)
class _Shifted:
    generate: Callable[[np.random.Generator], ObservingLog]
    shift: Shift

    def __call__(self, rng: np.random.Generator) -> ObservingLog:
        log = self.generate(rng)
        kept = rng.random(len(log)) < self.shift.kept
        kept[rng.integers(len(log), size=2)] = True  # something is always left
        log = log.take(np.flatnonzero(kept))
        return replace(log, seeing=log.seeing * self.shift.seeing, sky=log.sky + self.shift.sky)


def get_survey(name: str) -> Survey:
    """Give a survey by name: ``ztf``, ``hits`` or ``crts``, or one of these with ``-shifted`` or ``-varied`` behind it.

    Parameters
    ----------
    name : str
        Of the survey.

    Returns
    -------
    Survey
        The one of that name.

    Raises
    ------
    SimulationError
        If there is none.
    """
    base, _, change = name.partition("-")
    if base not in SURVEYS or name not in (base, f"{base}-shifted", f"{base}-varied"):
        raise SimulationError(
            f"no survey {name!r}: choose {', '.join(SURVEYS)}, or one of these with '-shifted' or '-varied'"
        )
    survey = SURVEYS[base]
    if change == "varied":
        return replace(survey, name=name, varied=True)
    return survey.shifted() if change else survey


def _ztf(rng: np.random.Generator) -> ObservingLog:
    """Draw a season of g and r every third night (Bellm et al. 2019, PASP 131, 018002, 068003)."""
    nights = np.arange(0, rng.uniform(150, 240), 3.0)
    nights = nights[rng.random(len(nights)) < 0.62]
    start = 58200 + rng.uniform(0, 1500)
    blocks = []
    for band, sky, seeing, sigma in (("g", 21.8, 2.1, 0.22), ("r", 20.9, 2.0, 0.2)):
        mjd = start + nights + 0.15 + rng.uniform(0, 0.3, len(nights))
        blocks.append(_observed(rng, mjd, band, sky, seeing, sigma, exposure=30.0, moon=2.0))
    return _sorted(blocks)


def _hits(rng: np.random.Generator) -> ObservingLog:
    """Draw five or six nights with four or five visits in g each (Förster et al. 2016, ApJ 832, 155)."""
    visits = int(rng.integers(4, 6))
    nights = np.arange(int(rng.integers(5, 7)))
    mjd = 57070 + (nights[:, None] + 0.05 + 0.067 * np.arange(visits)).ravel()
    mjd = mjd + rng.normal(0, 0.004, len(mjd))
    kept = rng.random(len(mjd)) < 0.9
    kept[:2] = True
    return _sorted([_observed(rng, mjd[kept], "g", 22.0, 1.25, 0.2, exposure=87.0, moon=0.4)])


def _crts(rng: np.random.Generator) -> ObservingLog:
    """Draw years of visits of four exposures in half an hour (Drake et al. 2009, ApJ 696, 870).

    It looks for asteroids, without a filter, in clear nights and in others. Other surveys calibrate fields through up to a
    magnitude of cloud (Ivezić et al. 2007, AJ 134, 973; Burke et al. 2014, AJ 147, 19). Here a third of the visits has
    a quarter of a magnitude, give or take a factor of two, the others have some hundredths, and it changes by a third
    from one exposure of a visit to the next.
    """
    years = np.arange(int(rng.integers(3, 7))) * 365.25
    moons = years[:, None] + np.arange(0, 190, 29.5) + rng.uniform(0, 14, (len(years), 1))
    kept = rng.random(moons.size) < 0.6
    kept[0] = True
    nights = moons.ravel()[kept]
    begin = 53500 + nights[:, None] + rng.uniform(0.2, 0.4, (len(nights), 1))
    mjd = (begin + np.arange(4) * 10 / 1440).ravel()
    log = _observed(rng, mjd, "C", 20.6, 3.2, 0.15, exposure=30.0, moon=0.6)
    visits = np.exp(rng.normal(np.where(rng.random(nights.shape) < 0.34, np.log(0.25), -3.2), 0.7))
    cloud = np.repeat(visits, 4) * rng.lognormal(0, 0.3, len(mjd))
    return _sorted([replace(log, cloud=cloud.clip(max=1.5))])


def _observed(
    rng: np.random.Generator,
    mjd: np.ndarray,
    band: str,
    sky: float,
    seeing: float,
    sigma: float,
    *,
    exposure: float,
    moon: float,
) -> ObservingLog:
    """Give exposures a weather: median seeing at the zenith, darkest sky, magnitudes that a full moon takes."""
    n = len(mjd)
    airmass = 1 + rng.exponential(0.2, n).clip(max=1.0)
    phase = 0.5 * (1 - np.cos(2 * np.pi * (mjd - 51550.0) / 29.53))  # 0 at new moon
    return ObservingLog(
        mjd=mjd,
        band=np.full(n, band, object),
        seeing=seeing * airmass**0.6 * rng.lognormal(0, sigma, n),
        sky=sky - moon * phase**2 * rng.random(n) + rng.normal(0, 0.1, n),
        airmass=airmass,
        exposure=np.full(n, exposure),
        cloud=np.zeros(n),
    )


def _sorted(blocks: list[ObservingLog]) -> ObservingLog:
    columns = {
        name: np.concatenate([getattr(block, name) for block in blocks]) for name in vars(blocks[0])
    }
    return ObservingLog(**columns).take(np.argsort(columns["mjd"], kind="stable"))


SURVEYS = {
    "ztf": Survey(
        "ztf",
        Instrument(
            1.01,
            6.2,
            10.0,
            50000.0,
            {"g": 24.8, "r": 24.65, "i": 24.0},
            {"g": 0.2, "r": 0.1, "i": 0.07},
        ),
        _ztf,
        brightest=14.0,
        crowding=3.0,
    ),
    "hits": Survey(
        "hits",
        Instrument(0.27, 4.0, 7.0, 40000.0, {"g": 26.9}, {"g": 0.2}, beta=3.5),
        _hits,
        brightest=17.5,
        crowding=20.0,
    ),
    "crts": Survey(
        "crts",
        Instrument(2.5, 2.0, 8.0, 30000.0, {"C": 23.4}, {"C": 0.12}, beta=3.5, misalignment=0.25),
        _crts,
        brightest=13.0,
        crowding=0.6,
        lowest=15.0,  # https://nesssi.cacr.caltech.edu/DataRelease/FAQ.html
        told=False,  # nor do the published files: see deepstreaks_dask.readers.crts
    ),
}
"""What can be simulated, by name."""
