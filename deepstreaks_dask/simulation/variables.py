"""What a kind of source does: its light curve, its track over the stamp, the galaxy that it lies in.

Light curves are analytic, with the source of each form in its doc-string and ranges rounded from there. They are meant to
have the shapes, amplitudes and time scales that tell the classes apart, not the statistics of a catalogue.
"""

from __future__ import annotations

import numpy as np

from deepstreaks_dask.simulation.source import (
    Sersic,
    Source,
    damped_random_walk,
    fourier_light_curve,
    random_phases,
    stationary_source,
)
from deepstreaks_dask.simulation.surveys import ObservingLog


def supernova(
    rng: np.random.Generator, log: ObservingLog, magnitude: float, fainter: float = 0.2
) -> Source:
    """Type Ia, or type II with a plateau, off the middle of a galaxy; ``magnitude`` at maximum.

    Type Ia: rise and fall of Bazin et al. (2009, A&A 499, 653), equation 1. Type II: a rise, a plateau that sinks in a
    straight line, and an exponential fall (Villar et al. 2019, ApJ 884, 83, equation 1), with times around theirs.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the source.
    log : ObservingLog
        The exposures that see it.
    magnitude : float
        At maximum, mag.
    fainter : float
        Magnitudes that its galaxy is fainter than itself at maximum, in the mean.

    Returns
    -------
    Source
        The light of the source in each exposure.
    """
    stretch = 1 + rng.uniform(0.02, 0.25)  # (1 + z)
    start, end = log.mjd[0], log.mjd[-1]
    peak = rng.uniform(start - 5, max(end - 0.2 * (end - start), start + 3) + 8)
    days = (log.mjd - peak) / stretch
    fine = np.linspace(-40, 250, 1451)
    if rng.random() < 0.6:
        rise, fall = rng.normal(3.5, 0.5), rng.normal(22, 3)
        redder = np.where(log.band == "g", 0.85, 1.1)

        def shape(t: np.ndarray, factor: np.ndarray | float) -> np.ndarray:
            exponent = np.clip(-t / rise, -500, 500)
            light: np.ndarray = np.exp(np.clip(-t / (fall * factor), -500, 50)) / (
                1 + np.exp(exponent)
            )
            return light

    else:
        rise, fall = rng.uniform(1.5, 4), rng.uniform(12, 30)
        plateau, sinking = rng.uniform(60, 110), rng.uniform(0.0, 0.006)
        redder = np.ones(len(log))

        def shape(t: np.ndarray, factor: np.ndarray | float) -> np.ndarray:
            on = 1 - sinking * np.clip(t, 0, plateau)
            off = np.exp(-np.clip(t - plateau, 0, None) / fall)
            light: np.ndarray = on * off / (1 + np.exp(np.clip(-t / rise, -500, 500)))
            return light

    offset = float(fine[np.argmax(shape(fine, 1.0))])
    flux = shape(days + offset, redder) / shape(np.array([offset]), 1.0)
    host = None
    if rng.random() < 0.85:
        host = Sersic.draw(rng, magnitude + rng.normal(fainter, 1.2))
        away, at = host.radius * abs(rng.normal(0, 0.8)), rng.uniform(0, 2 * np.pi)
        host = Sersic(**{**vars(host), "x": away * np.cos(at), "y": away * np.sin(at)})
    with np.errstate(divide="ignore"):
        curve = magnitude - 2.5 * np.log10(np.maximum(flux, 1e-12))
    return stationary_source(np.where(flux > 1e-6, curve, np.inf), host)


def rr_lyrae(rng: np.random.Generator, log: ObservingLog, magnitude: float) -> Source:
    """RRab and RRc by Fourier series in the cosine (Simon & Teays 1982, ApJ 261, 586).

    Ratios and phases as the stars of OGLE cluster (Soszyński et al. 2014, Acta Astronomica 64, 177).

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the source.
    log : ObservingLog
        The exposures that see it.
    magnitude : float
        How bright it is, mag.

    Returns
    -------
    Source
        The light of the source in each exposure.
    """
    if rng.random() < 0.75:
        period = np.clip(rng.normal(0.57, 0.07), 0.38, 0.9)
        amplitude = rng.uniform(0.4, 1.2)
        ratios = rng.normal([0.46, 0.33, 0.2], 0.03)
        phases = rng.normal([4.0, 2.0, 6.1], 0.12)
    else:
        period = np.clip(rng.normal(0.32, 0.04), 0.22, 0.45)
        amplitude = rng.uniform(0.25, 0.5)
        ratios = rng.normal([0.15, 0.06, 0.03], 0.02)
        phases = rng.normal([4.6, 3.3, 2.2], 0.4)
    return stationary_source(
        magnitude + fourier_light_curve(rng, log, period, amplitude, ratios, phases)
    )


def cepheid(rng: np.random.Generator, log: ObservingLog, magnitude: float) -> Source:
    """Classical Cepheids by Fourier series in the cosine (Simon & Lee 1981, ApJ 248, 291).

    The second harmonic's ratio falls and its phase climbs towards periods of ten days, the Hertzsprung progression, as with
    the stars of OGLE (Soszyński et al. 2008, Acta Astronomica 58, 163).

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the source.
    log : ObservingLog
        The exposures that see it.
    magnitude : float
        How bright it is, mag.

    Returns
    -------
    Source
        The light of the source in each exposure.
    """
    period = np.clip(rng.lognormal(np.log(4.5), 0.7), 1.2, 50)
    amplitude = rng.uniform(0.3, 1.1)
    bump = np.exp(-0.5 * (np.log10(period / 10) / 0.12) ** 2)
    ratios = np.clip(rng.normal([0.42 - 0.3 * bump, 0.2 - 0.1 * bump, 0.1], 0.03), 0, None)
    climb = np.clip(np.log10(period), 0, 1)
    phases = rng.normal([4.1 + 1.2 * climb, 1.9 + 1.5 * climb, 6.0 + 1.5 * climb], 0.15)
    return stationary_source(
        magnitude + fourier_light_curve(rng, log, period, amplitude, ratios, phases)
    )


def eclipsing_binary(rng: np.random.Generator, log: ObservingLog, magnitude: float) -> Source:
    """Contact binaries by two cosines (Rucinski 1997, AJ 113, 407), or two eclipses of a detached pair.

    Eclipses are flat-bottomed Gaussians in phase, about what the polynomial chains of Prša et al. (2008, ApJ 687, 542) fit.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the source.
    log : ObservingLog
        The exposures that see it.
    magnitude : float
        How bright it is, mag.

    Returns
    -------
    Source
        The light of the source in each exposure.
    """
    if rng.random() < 0.5:
        period = np.clip(rng.normal(0.36, 0.08), 0.22, 0.9)
        second = -rng.uniform(0.08, 0.28)
        fourth = second * (0.125 - second) * rng.uniform(0.8, 1.2)
        turns = random_phases(rng, log, period)
        flux = 1 + second * np.cos(2 * turns) + fourth * np.cos(4 * turns)
        flux += rng.uniform(-0.02, 0.02) * np.cos(turns)
    else:
        period = np.clip(rng.lognormal(np.log(1.8), 0.6), 0.5, 15)
        turns = random_phases(rng, log, period)
        width = rng.uniform(0.02, 0.06)
        deep = rng.uniform(0.2, 0.65)
        flux = np.ones(len(log))
        for middle, depth in ((0.0, deep), (0.5, deep * rng.uniform(0.1, 0.95))):
            away = np.abs((turns / (2 * np.pi) - middle + 0.5) % 1 - 0.5)
            flux -= depth * np.exp(-0.5 * (away / width) ** 4)
    return stationary_source(magnitude - 2.5 * np.log10(flux))


def constant(rng: np.random.Generator, log: ObservingLog, magnitude: float) -> Source:
    """A star that does not vary.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the source.
    log : ObservingLog
        The exposures that see it.
    magnitude : float
        How bright it is, mag.

    Returns
    -------
    Source
        The light of the source in each exposure.
    """
    return stationary_source(np.full(len(log), magnitude))


def galaxy(rng: np.random.Generator, log: ObservingLog, magnitude: float) -> Source:
    """A galaxy in which nothing happens.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the source.
    log : ObservingLog
        The exposures that see it.
    magnitude : float
        How bright it is, mag.

    Returns
    -------
    Source
        The light of the source in each exposure.
    """
    host = Sersic.draw(rng, magnitude)
    return stationary_source(np.full(len(log), np.inf), host)


def asteroid(rng: np.random.Generator, log: ObservingLog, magnitude: float) -> Source:
    """A main-belt asteroid: at the middle in one exposure, 20 to 60 arcseconds an hour away from it in others.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the source.
    log : ObservingLog
        The exposures that see it.
    magnitude : float
        How bright it is, mag.

    Returns
    -------
    Source
        The light of the source in each exposure.
    """
    rate, direction = rng.uniform(20, 60) / 3600, rng.uniform(0, 2 * np.pi)
    trail = rate * np.cos(direction), rate * np.sin(direction)
    seconds = 86400 * (log.mjd - log.mjd[rng.integers(len(log))])
    curve = np.full(len(log), magnitude) + rng.normal(0, 0.08, len(log))
    return Source(curve, trail[0] * seconds, trail[1] * seconds, trail=trail)


def proper_motion_star(rng: np.random.Generator, log: ObservingLog, magnitude: float) -> Source:
    """A nearby star that moves by 0.2 to 2 arcseconds a year (Lépine & Shara 2005, AJ 129, 1483), and does not vary.

    A catalogue of another decade has it elsewhere, so that a search for transients reports it (Drake et al. 2009, ApJ 696,
    870). It is at the middle of its stamp in one exposure.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the source.
    log : ObservingLog
        The exposures that see it.
    magnitude : float
        How bright it is, mag.

    Returns
    -------
    Source
        The light of the source in each exposure.
    """
    rate, direction = 0.2 * 10 ** rng.random(), rng.uniform(0, 2 * np.pi)
    away = rate * (log.mjd - log.mjd[rng.integers(len(log))]) / 365.25
    return Source(np.full(len(log), magnitude), away * np.cos(direction), away * np.sin(direction))


def active_nucleus(rng: np.random.Generator, log: ObservingLog, magnitude: float) -> Source:
    """A quasar: a damped random walk, its time scale and amplitude from MacLeod et al. (2010, ApJ 721, 1014).

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the source.
    log : ObservingLog
        The exposures that see it.
    magnitude : float
        How bright it is, mag.

    Returns
    -------
    Source
        The light of the source in each exposure.
    """
    scale = np.clip(rng.lognormal(np.log(200), 0.6), 20, 2000)
    curve = magnitude + damped_random_walk(
        rng, log.mjd, scale, np.clip(rng.lognormal(np.log(0.2), 0.4), 0.08, 0.6)
    )
    host = Sersic.draw(rng, magnitude + rng.uniform(0.5, 2.5)) if rng.random() < 0.4 else None
    return stationary_source(curve, host)


def blazar(rng: np.random.Generator, log: ObservingLog, magnitude: float) -> Source:
    """A blazar: a faster and larger damped random walk (Ruan et al. 2012, ApJ 760, 51).

    Its galaxy outshines it less than that of other active nuclei, and most are too far to show one (Sbarufatti,
    Treves & Falomo 2005, ApJ 635, 173).

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the source.
    log : ObservingLog
        The exposures that see it.
    magnitude : float
        How bright it is, mag.

    Returns
    -------
    Source
        The light of the source in each exposure.
    """
    scale = np.clip(rng.lognormal(np.log(60), 0.7), 5, 500)
    amplitude = np.clip(rng.lognormal(np.log(0.5), 0.35), 0.25, 1.3)
    host = Sersic.draw(rng, magnitude + rng.uniform(1.0, 3.0)) if rng.random() < 0.2 else None
    return stationary_source(magnitude + damped_random_walk(rng, log.mjd, scale, amplitude), host)


def cataclysmic(rng: np.random.Generator, log: ObservingLog, magnitude: float) -> Source:
    """A dwarf nova: outbursts of a day's rise, a flat top and an exponential fall; ``magnitude`` at maximum.

    Their amplitude follows from their recurrence (Warner 1995, Cataclysmic Variable Stars, the relation of
    Kukarkin and Parenago: 0.7 + 1.9 log P mag).

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the source.
    log : ObservingLog
        The exposures that see it.
    magnitude : float
        At maximum, mag.

    Returns
    -------
    Source
        The light of the source in each exposure.
    """
    recurrence = np.clip(rng.lognormal(np.log(90), 0.8), 12, 1500)
    amplitude = np.clip(0.7 + 1.9 * np.log10(recurrence) + rng.normal(0, 0.3), 1.5, 7)
    top, fall = rng.uniform(2, 12), rng.uniform(0.6, 1.5)
    bursts = [log.mjd[0] + recurrence * (rng.random() - 0.2)]
    while bursts[-1] < log.mjd[-1] and len(bursts) < 2000:
        bursts.append(bursts[-1] + recurrence * np.clip(rng.normal(1, 0.25), 0.3, 2))
    days = log.mjd[:, None] - np.array(bursts)[None, :]
    rising = np.clip(1 + days / 1.0, 0, 1)
    falling = np.exp(-np.clip(days - top, 0, None) / (fall * 3))
    high = (rising * falling).max(axis=1)
    return stationary_source(magnitude + amplitude * (1 - high) + rng.normal(0, 0.1, len(log)))


def flare_star(rng: np.random.Generator, log: ObservingLog, magnitude: float) -> Source:
    """A red dwarf with flares: a fast rise and two exponential falls (Davenport et al. 2014, ApJ 797, 122).

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the source.
    log : ObservingLog
        The exposures that see it.
    magnitude : float
        How bright it is, mag.

    Returns
    -------
    Source
        The light of the source in each exposure.
    """
    days = (log.mjd - log.mjd[0])[:, None]
    # flares are rare and last minutes to hours: one at least is put upon an exposure
    peaks = np.concatenate(
        [
            [days[rng.integers(len(log)), 0] - rng.uniform(0, 0.01)],
            rng.uniform(0, days.max() + 1, 5),
        ]
    )
    half = rng.uniform(0.004, 0.03)
    t = (days - peaks) / half
    after = np.clip(t, 0, None)
    falls = 0.689 * np.exp(-1.6 * after) + 0.303 * np.exp(-0.278 * after)
    shape = np.where(t < 0, np.clip(1 + t, 0, 1), falls)
    flux = 1 + (rng.lognormal(np.log(2.5), 0.5, len(peaks)) * shape).sum(axis=1)
    return stationary_source(magnitude + 1.0 - 2.5 * np.log10(flux))


def long_period(rng: np.random.Generator, log: ObservingLog, magnitude: float) -> Source:
    """A Mira or semiregular red giant: months long and large, nearly a sine (Soszyński et al. 2009, AcA 59, 239).

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the source.
    log : ObservingLog
        The exposures that see it.
    magnitude : float
        How bright it is, mag.

    Returns
    -------
    Source
        The light of the source in each exposure.
    """
    period = np.clip(rng.lognormal(np.log(220), 0.5), 50, 700)
    swing = rng.uniform(0.4, 3.0)
    ratios, phases = rng.uniform([0.05, 0, 0], [0.2, 0.08, 0.02]), rng.uniform(0, 2 * np.pi, 3)
    return stationary_source(
        magnitude + fourier_light_curve(rng, log, period, swing, ratios, phases, chromatic=False)
    )
