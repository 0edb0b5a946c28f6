"""Labelled streak cutouts: near-Earth asteroids and everything that is mistaken for them.

Each kind is one small function that adds its object to a :class:`~.camera.Scene`; the camera does
the rest. The parameters are drawn widely, wider than any one survey's, so that networks trained on
them need not have seen a survey's own look. The kinds follow the classes of DeepStreaks (Duev et al. 2019,
MNRAS 486, 4158, arXiv:1904.05920).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.special import erf

from deepstreaks_dask.simulation.camera import Conditions, Display, Scene


@dataclass(frozen=True)
class Streak:
    """What was put into a cutout: the truth beside the picture.

    ``length`` is in pixels, ``angle`` in radians counter-clockwise from the x axis, ``flux`` in electrons,
    ``snr`` the signal-to-noise ratio of the ideal matched filter. NaN where the kind has no such thing.
    """

    length: float = np.nan
    angle: float = np.nan
    flux: float = np.nan
    snr: float = np.nan


@dataclass(frozen=True)
class SimulatedCutout:
    """A picture as the survey would have delivered it, with its kind and its truth."""

    picture: Image.Image
    kind: str
    truth: Streak


def _line_coordinates(
    scene: Scene, angle: float, x: float, y: float
) -> tuple[np.ndarray, np.ndarray]:
    """Distances along and across a line through ``(x, y)``, in pixels."""
    gy, gx = scene.grid
    dx, dy = gx - x, gy - y
    along = dx * np.cos(angle) + dy * np.sin(angle)
    across = dy * np.cos(angle) - dx * np.sin(angle)
    return along, across


def _unevenness(along: np.ndarray, length: float, rng: np.random.Generator) -> np.ndarray:
    """Brightness along a trail: slope, slow waves and passing cirrus, mean about 1."""
    phase = along / max(length, 1.0)
    slope = rng.normal(0, 0.35)
    wave = rng.normal(0, 0.15) * np.cos(2 * np.pi * (rng.uniform(0.5, 3) * phase + rng.random()))
    return np.clip(1 + slope * phase + wave, 0.25, None)


def _wobble(along: np.ndarray, length: float, rng: np.random.Generator) -> np.ndarray:
    """Sideways excursions of a trail in pixels: tracking errors, seeing, a touch of curvature."""
    phase = along / max(length, 1.0)
    sway = rng.normal(0, 0.3) * np.sin(2 * np.pi * (rng.uniform(0.5, 3) * phase + rng.random()))
    bend = rng.normal(0, 0.25) * (np.clip(phase, -1, 1) ** 2)
    return sway + bend


def _trail(
    scene: Scene, x: float, y: float, angle: float, length: float, width: float
) -> tuple[np.ndarray, np.ndarray]:
    """A PSF-convolved trail of unit peak, and the distance along it in pixels."""
    rng = scene.rng
    along, across = _line_coordinates(scene, angle, x, y)
    across = across - _wobble(along, length, rng)
    wings = rng.uniform(0.02, 0.15)
    profile = (1 - wings) * np.exp(-0.5 * (across / width) ** 2)
    profile += wings * np.exp(-0.5 * (across / (2.5 * width)) ** 2)
    root2 = np.sqrt(2) * width
    ends = 0.5 * (erf((along + length / 2) / root2) - erf((along - length / 2) / root2))
    trail = profile * ends * _unevenness(along, length, rng)
    return (trail / max(trail.max(), 1e-6)).astype(np.float32), along


FINDER_THRESHOLD = 1.3
"""A trail reaches this many noise sigmas a pixel, or the streak finder would not have cut it out."""


def _brightness(
    scene: Scene, trail: np.ndarray, faintest: float, spread: float, brightest: float
) -> tuple[float, float]:
    """Draw a trail's peak in electrons, and give the matched-filter ratio that goes with it.

    ``faintest`` is the least ratio, above which its logarithm is exponential with the mean ``spread``;
    ``brightest`` is the highest peak in noise sigmas.
    """
    noise = scene.conditions.noise
    norm = float(np.sqrt((trail.astype(np.float64) ** 2).sum()))
    least = max(faintest / norm, FINDER_THRESHOLD)
    peak = min(least * float(np.exp(scene.rng.exponential(spread))), brightest)
    return peak * noise, peak * norm


_MAX_MASKED_FRACTION = 0.7  # nobody cuts out a picture that is hardly there


def _mask_patches(scene: Scene, keep: np.ndarray | None = None, most: int = 4) -> None:
    """Mask rectangles as bright stars and chip edges leave them; ``keep`` stays mostly visible."""
    rng, half = scene.rng, scene.size / 2
    most_hidden = rng.uniform(0, 0.25)

    def too_much() -> bool:
        if scene.masked.mean() > _MAX_MASKED_FRACTION:
            return True
        return keep is not None and bool((keep * scene.masked).sum() > most_hidden * keep.sum())

    if too_much():  # by the masks of field stars
        scene.masked[:] = False
    if rng.random() > 0.4:
        return
    before = scene.masked.copy()
    for _ in range(rng.integers(1, most + 1)):
        if rng.random() < 0.25:  # a chip edge or a wide union of boxes: a band from one side
            depth = rng.uniform(-half, 0.7 * half)
            band = [(-half, depth, -half, half), (-half, half, -half, depth)][rng.integers(2)]
            sign = rng.choice((-1, 1))
            x0, x1, y0, y1 = (sign * v for v in band)
            scene.mask_box(x0, x1, y0, y1)
        else:
            x, y = rng.uniform(-half, half, 2)
            w, h = rng.uniform(6, 30, 2)
            scene.mask_box(x - w, x + w, y - h, y + h)
    if too_much():
        scene.masked = before


def _asteroid_trail(scene: Scene, length: float) -> tuple[np.ndarray, float]:
    """A PSF-wide trail of unit peak about the middle, both ends in sight, at any angle, which is given too."""
    rng, c = scene.rng, scene.conditions
    angle = rng.uniform(0, np.pi)
    reach = min(8.0, max(2.0, 0.46 * scene.size - length / 2))
    x, y = np.clip(rng.normal(0, 3, 2), -reach, reach)
    width = max(c.sigma * rng.uniform(0.95, 1.25), 0.65)
    trail, _ = _trail(scene, x, y, angle, length, width)
    return trail, angle


def _near_earth_asteroid(scene: Scene) -> Streak:
    """A PSF-wide streak of 5 to 100 px about the middle, faint to saturated, both ends in sight."""
    length = float(np.exp(scene.rng.uniform(np.log(5), np.log(100))))
    trail, angle = _asteroid_trail(scene, length)
    peak, snr = _brightness(scene, trail, faintest=10, spread=1.3, brightest=200)
    light = trail * peak
    scene.light += light
    _mask_patches(scene, keep=trail)
    return Streak(length, angle, float(light.sum()), snr)


def add_asteroid(scene: Scene, length: float, flux: float) -> Streak:
    """Put a near-Earth asteroid of known length and flux about the middle of a scene.

    Unlike those of :data:`KINDS` it may be fainter than a streak finder would find.

    Parameters
    ----------
    scene : Scene
        Gets the light.
    length : float
        Pixels of the scene.
    flux : float
        Electrons, all told; 0 adds nothing.

    Returns
    -------
    Streak
        Where and how bright it is.
    """
    trail, angle = _asteroid_trail(scene, length)
    light = trail * (flux / float(trail.sum()))
    scene.light += light
    snr = float(np.sqrt((light.astype(np.float64) ** 2).sum())) / scene.conditions.noise
    return Streak(length, angle, flux, snr)


def _satellite(scene: Scene) -> Streak:
    """A trail that crosses the cutout, or enters it and ends, sharp or out of focus."""
    rng, c = scene.rng, scene.conditions
    angle = rng.uniform(0, np.pi)
    x, y = rng.normal(0, 5, 2)
    length = 4.0 * scene.size
    if rng.random() < 0.15:  # the shutter opened or closed: one end in sight, beyond the middle
        end = rng.uniform(10, 0.4 * scene.size) * rng.choice((-1, 1))
        x, y = x + (end - np.sign(end) * length / 2) * np.array((np.cos(angle), np.sin(angle)))
    width = max(
        c.sigma * (rng.uniform(0.9, 1.3) if rng.random() < 0.8 else rng.uniform(1.3, 3)), 0.6
    )
    trail, _ = _trail(scene, x, y, angle, length, width)
    peak, snr = _brightness(scene, trail, faintest=18, spread=1.3, brightest=300)
    light = trail * peak
    scene.light += light
    if rng.random() < 0.08:  # two satellites of one launch
        twin, _ = _trail(scene, x + rng.uniform(-30, 30), y, angle, length, width)
        scene.light += twin * float(light.max()) * rng.uniform(0.3, 1)
    _mask_patches(scene, keep=trail)
    return Streak(np.nan, angle, np.nan, snr)


def _tumbler(scene: Scene) -> Streak:
    """A tumbling or flashing satellite: a dashed trail with at least three flashes in sight."""
    rng, c = scene.rng, scene.conditions
    angle = rng.uniform(0, np.pi)
    x, y = rng.normal(0, 5, 2)
    trail, along = _trail(scene, x, y, angle, 4.0 * scene.size, max(c.sigma, 0.6))
    period = rng.uniform(7, 0.3 * scene.size)
    duty = rng.uniform(0.1, 0.6)
    cycle = (along / period + rng.random()) % 1
    soft = max(c.sigma / period, 0.02)
    flash = 0.5 * (erf((duty / 2 - np.abs(cycle - 0.5)) / (np.sqrt(2) * soft)) + 1)
    floor = rng.uniform(0, 0.3) if rng.random() < 0.5 else 0.0
    trail = trail * (floor + (1 - floor) * flash).astype(np.float32)
    peak, snr = _brightness(scene, trail, faintest=25, spread=1.2, brightest=300)
    scene.light += trail * peak
    _mask_patches(scene, keep=trail)
    return Streak(np.nan, angle, np.nan, snr)


def _track(
    scene: Scene, x: float, y: float, angle: float, length: float, wiggle: float, charge: float
) -> None:
    """Charge of one particle, pixel by pixel, never blurred by the optics."""
    rng = scene.rng
    steps = max(int(length * 2), 1)
    headings = angle + np.cumsum(rng.normal(0, wiggle, steps))
    half = (scene.size - 1) / 2
    columns = np.rint(x + half + 0.5 * np.cumsum(np.cos(headings))).astype(int)
    rows = np.rint(y + half + 0.5 * np.cumsum(np.sin(headings))).astype(int)
    inside = (rows >= 0) & (rows < scene.size) & (columns >= 0) & (columns < scene.size)
    # Landau-like energy loss: mostly even, now and then a knock-on electron
    loss = 0.5 * charge * (rng.gamma(3.0, 1 / 3.0, steps) + (rng.random(steps) < 0.04) * 3)
    np.add.at(scene.sharp, (rows[inside], columns[inside]), loss[inside].astype(np.float32))
    if rng.random() < 0.3:  # a thick track: charge diffused to one neighbour
        shift = rng.uniform(0.15, 0.6)
        rows, columns = rows[inside], columns[inside]
        axis = rng.integers(2)
        rows = np.clip(rows + axis, 0, scene.size - 1)
        columns = np.clip(columns + 1 - axis, 0, scene.size - 1)
        np.add.at(scene.sharp, (rows, columns), (shift * loss[inside]).astype(np.float32))


def _cosmic_ray(scene: Scene) -> Streak:
    """A particle hit: sharp, straight muon or curly worm, often with companions."""
    rng, c = scene.rng, scene.conditions
    angle = rng.uniform(0, 2 * np.pi)
    length = float(np.exp(rng.uniform(np.log(6), np.log(70))))
    straight = rng.random() < 0.5
    wiggle = rng.uniform(0, 0.02) if straight else rng.uniform(0.05, 0.45)
    charge = c.noise * float(np.exp(rng.uniform(np.log(8), np.log(80))))
    x, y = rng.normal(0, 3, 2) - 0.5 * length * np.array((np.cos(angle), np.sin(angle)))
    _track(scene, x, y, angle, length, wiggle, charge)
    track = scene.sharp.clip(0)
    for _ in range(rng.poisson(0.5)):
        x, y = rng.uniform(-scene.size / 2, scene.size / 2, 2)
        _track(scene, x, y, rng.uniform(0, 7), rng.uniform(1, 15), 0.3, charge * rng.random())
    _mask_patches(scene, keep=track)
    return Streak(length, angle % np.pi, float(scene.sharp.sum()), np.nan)


def _dipole(scene: Scene) -> Streak:
    """A badly subtracted bright star, or a few of them in a row, at the middle."""
    rng, c = scene.rng, scene.conditions
    x, y = rng.normal(0, 3, 2)
    count = 1 if rng.random() < 0.6 else int(rng.integers(2, 5))
    line = rng.uniform(0, np.pi)
    shift = rng.uniform(0.25, 2.0)
    direction = rng.uniform(0, 2 * np.pi)
    for k in range(count):
        flux = c.noise * float(np.exp(rng.uniform(np.log(80), np.log(4000))))
        step = 0 if k == 0 else rng.uniform(-25, 25)
        offset = shift * (1 + rng.normal(0, 0.2))
        scene.add_star(
            x + step * np.cos(line),
            y + step * np.sin(line),
            flux,
            (offset * np.cos(direction), offset * np.sin(direction)),
        )
    _mask_patches(scene)
    return Streak()


def _ghost(scene: Scene) -> Streak:
    """Out-of-focus light: discs, rings and arcs with the telescope's obscuration."""
    rng, c = scene.rng, scene.conditions
    gy, gx = scene.grid
    for _ in range(rng.integers(1, 4)):
        radius = rng.uniform(12, 0.6 * scene.size)
        bearing = rng.uniform(0, 2 * np.pi)
        # an edge of the ghost passes near the middle, where the streak finder tripped
        x, y = radius * np.array((np.cos(bearing), np.sin(bearing))) + rng.normal(0, 6, 2)
        r = np.hypot(gx - x, (gy - y) * rng.uniform(0.8, 1.2))
        soft = rng.uniform(0.8, 5)
        inner = rng.uniform(0.2, 0.95) * radius if rng.random() < 0.8 else 0.0
        disc = 0.5 * (erf((radius - r) / soft) - (erf((inner - r) / soft) if inner else -1))
        if rng.random() < 0.4:  # vignetted: only an arc remains
            disc = disc * (
                np.cos(np.arctan2(gy - y, gx - x) - rng.uniform(0, 7)) > rng.uniform(-0.5, 0.7)
            )
        sign = 1 if rng.random() < 0.85 else -1
        scene.light += (sign * c.noise * rng.uniform(0.7, 6) * disc).astype(np.float32)
    _mask_patches(scene)
    return Streak()


def _bleed(scene: Scene) -> Streak:
    """A saturated star: charge bled along the columns, diffraction spikes, halo."""
    rng, c = scene.rng, scene.conditions
    gy, gx = scene.grid
    x, y = rng.normal(0, 4, 2)
    length = rng.uniform(8, 1.3 * scene.size)
    half_width = rng.uniform(0.5, 3.5)
    start = y - rng.uniform(0, 1) * length
    tilted = rng.random() < 0.9
    along, across = (gy, gx) if tilted else (gx, gy)
    taper = np.clip(np.minimum(along - start, start + length - along) / rng.uniform(1, 12), 0, 1)
    column = (np.abs(across - x) <= half_width * (0.4 + 0.6 * taper)) & (taper > 0)
    level = c.noise * rng.uniform(6, 150) * rng.choice((1, 1, 1, -1))
    scene.sharp += (level * column * rng.uniform(0.7, 1.3, column.shape)).astype(np.float32)
    if rng.random() < 0.5:  # the subtraction leaves a negative flank
        flank = np.abs(across - x - np.sign(rng.normal()) * (half_width + 1)) < 1
        scene.sharp -= (level * rng.uniform(0.2, 0.9) * flank * (taper > 0)).astype(np.float32)
    if rng.random() < 0.6:
        middle = rng.uniform(-0.5, 0.5) * length * 0.3 + y
        flux = c.noise * rng.uniform(2000, 40000)
        scene.add_star(x, middle, flux, tuple(rng.normal(0, 0.5, 2)))
        if rng.random() < 0.5:
            for spike in (np.pi / 4, -np.pi / 4) if rng.random() < 0.5 else (0.0, np.pi / 2):
                u, v = _line_coordinates(scene, spike + rng.normal(0, 0.02), x, middle)
                fade = np.exp(-np.abs(u) / rng.uniform(8, 40)) * np.exp(-0.5 * (v / 1.2) ** 2)
                scene.light += (c.noise * rng.uniform(3, 25) * fade).astype(np.float32)
        if rng.random() < 0.5:
            side = rng.uniform(4, 14)
            scene.mask_box(x - side, x + side, middle - side, middle + side)
    _mask_patches(scene)
    return Streak()


def _mask_edge(scene: Scene) -> Streak:
    """The rim of a masked region: leaked light, overscan, noise that does not belong."""
    rng, c = scene.rng, scene.conditions
    gy, gx = scene.grid
    half = scene.size / 2
    edge = rng.normal(0, 5)
    along, across = (gy, gx) if rng.random() < 0.5 else (gx, gy)
    side = rng.choice((-1, 1))
    distance = side * (across - edge)  # positive outside the mask
    if rng.random() < 0.5:
        extent = np.full_like(distance, True, dtype=bool)
    else:
        extent = np.abs(along - rng.normal(0, 5)) < rng.uniform(8, 50)
    style = rng.integers(3)
    level = c.noise * rng.uniform(3, 40)
    if style == 0:  # a bright rim of one to three columns
        rim = (distance >= 0) & (distance < rng.uniform(1, 3.5)) & extent
        scene.sharp += (level * rim * rng.gamma(2, 0.5, rim.shape)).astype(np.float32)
    elif style == 1:  # the halo of the masked star leaks out
        halo = np.exp(-np.clip(distance, 0, None) / rng.uniform(1.5, 7)) * extent
        scene.light += (level * halo).astype(np.float32)
    else:  # noisy, badly calibrated border columns
        width = rng.uniform(2, 10)
        noise = rng.normal(0, level / 2, distance.shape) * ((distance >= 0) & (distance < width))
        scene.sharp += (noise * extent).astype(np.float32)
    if rng.random() < 0.6:
        reach = half if extent.all() else rng.uniform(10, 50)
        depth = side * half * 2 if rng.random() < 0.6 else side * rng.uniform(10, 60)
        box = (edge - depth, edge) if side > 0 else (edge, edge - depth)
        if along is gy:
            scene.mask_box(box[0], box[1], -reach, reach)
        else:
            scene.mask_box(-reach, reach, box[0], box[1])
    else:
        scene.masked |= (distance < 0) & extent
    _mask_patches(scene, most=2)
    return Streak()


def _noise(scene: Scene) -> Streak:
    """Nothing at all, or hot pixels, a bad column, or an uneven background."""
    rng, c = scene.rng, scene.conditions
    gy, gx = scene.grid
    if rng.random() < 0.25:
        hot = rng.random((scene.size, scene.size)) < rng.uniform(0.0002, 0.002)
        scene.sharp += (hot * c.noise * rng.exponential(15, hot.shape)).astype(np.float32)
    if rng.random() < 0.15:
        column = np.abs(gx - np.rint(rng.normal(0, 10))) < rng.uniform(0.5, 1.5)
        scene.sharp += (column * c.noise * rng.normal(0, 6)).astype(np.float32)
    if rng.random() < 0.25:
        slope = rng.normal(0, 2, 2) * c.noise / scene.size
        scene.light += np.clip(slope[0] * gx + slope[1] * gy, -0.4 * c.sky, None)
    _mask_patches(scene)
    return Streak()


@dataclass(frozen=True)
class Kind:
    """One kind of cutout: how it is drawn, how common it is, how each family labels it.

    ``share`` is what share of all cutouts it is, 0 to 1; ``labels`` maps a family (rb, sl, kd, os) to 1 or 0, and a
    family that has no say is left out.
    """

    draw: Callable[[Scene], Streak]
    share: float
    labels: dict[str, int]


_BOGUS_LABELS = {"rb": 0, "kd": 0, "os": 0}
_LONG_LABELS = {"rb": 1, "sl": 0, "os": 0}

KINDS: dict[str, Kind] = {
    "nea": Kind(_near_earth_asteroid, 0.20, {"rb": 1, "sl": 1, "kd": 1, "os": 1}),
    "satellite": Kind(_satellite, 0.12, _LONG_LABELS),
    "tumbler": Kind(_tumbler, 0.06, _LONG_LABELS),
    "cosmic_ray": Kind(_cosmic_ray, 0.18, {"rb": 1, "sl": 1, "kd": 0, "os": 0}),
    "dipole": Kind(_dipole, 0.16, _BOGUS_LABELS),
    "ghost": Kind(_ghost, 0.06, _BOGUS_LABELS),
    "bleed": Kind(_bleed, 0.09, _BOGUS_LABELS),
    "mask_edge": Kind(_mask_edge, 0.07, _BOGUS_LABELS),
    "noise": Kind(_noise, 0.06, _BOGUS_LABELS),
}
"""What a simulated night holds. The shares are a choice, not a survey's statistics."""


def simulate_cutout(kind: str, conditions: Conditions, rng: np.random.Generator) -> SimulatedCutout:
    """Simulate one difference-image cutout.

    Parameters
    ----------
    kind : str
        A key of :data:`KINDS`.
    conditions : Conditions
        Seeing, sky and so on of the exposure.
    rng : numpy.random.Generator
        Everything random is drawn from it, so equal generators give equal cutouts.

    Returns
    -------
    SimulatedCutout
        A grey picture of 124 to 179 px a side, dark on light grey, as an image file would hold it.
    """
    return _picture(kind, KINDS[kind].draw, conditions, rng)


def simulate_asteroid(
    length: float, flux: float, conditions: Conditions, rng: np.random.Generator
) -> SimulatedCutout:
    """Simulate the cutout of a near-Earth asteroid of known length and flux.

    Parameters
    ----------
    length : float
        Pixels of the detector.
    flux : float
        Electrons; 0 leaves the cutout without a streak.
    conditions, rng
        As for :func:`simulate_cutout`.

    Returns
    -------
    SimulatedCutout
        With its truth.
    """

    def draw(scene: Scene) -> Streak:
        truth = add_asteroid(scene, length, flux)
        _mask_patches(scene, keep=scene.light if flux else None)
        return truth

    return _picture("nea", draw, conditions, rng)


def _picture(
    kind: str,
    draw: Callable[[Scene], Streak],
    conditions: Conditions,
    rng: np.random.Generator,
) -> SimulatedCutout:
    size = int(rng.integers(150, 162)) if rng.random() < 0.6 else int(rng.integers(126, 150))
    scene = Scene(conditions, size, rng)
    scene.add_field_stars()
    truth = draw(scene)
    for _ in range(rng.poisson(0.3)):  # a stray particle can hit any cutout
        x, y = rng.uniform(-size / 2, size / 2, 2)
        if np.hypot(x, y) > 25:
            charge = conditions.noise * rng.uniform(5, 30)
            _track(scene, x, y, rng.uniform(0, 7), rng.uniform(1, 6), 0.2, charge)
    picture = Display.draw(rng).develop(scene, rng)
    return SimulatedCutout(picture, kind, truth)
