"""Attribution maps as images, for dashboards.

A map takes seconds, so maps are computed on request, one at a time. Maps and networks are cached, up to a fixed number of
each, so that memory stays bounded. :mod:`~deepstreaks_dask.models.attribution` describes what a map means.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from PIL import Image
from scipy.ndimage import gaussian_filter

from deepstreaks_dask.archive.pictures import grey
from deepstreaks_dask.errors import DeepStreaksError, ModelError
from deepstreaks_dask.utils.html import html_facts

if TYPE_CHECKING:
    from deepstreaks_dask.models.attribution import Explainer

CAPTION = (
    "Red speaks for a high score, blue against it: integrated gradients of the network's logit, from an empty sky "
    "to this cutout. A map shows what one network reacted to, not whether it was right."
)
"""Text to show beside a map."""

_MAX_CACHED_NETWORKS = 9
_MAX_CACHED_MAPS = 512
_MAX_WAITING_REQUESTS = 8  # further requests are refused
_SMOOTHING_SIGMA = 1.5  # pixels: shares of single pixels are too noisy to show a pattern
_COLOUR_FOR, _COLOUR_AGAINST = (214, 39, 24), (24, 74, 214)


class ExplanationError(DeepStreaksError):
    """A score cannot be explained here, or not now."""


class TooManyError(ExplanationError):
    """Too many requests for maps are waiting."""


@dataclass(frozen=True)
class Map:
    """An attribution map: the share of each pixel in a score.

    Attributes
    ----------
    png : bytes
        The map over the cutout.
    logit, sky : float
        Logits, which have no unit: of the cutout, and of an empty sky, all of the cutout's median grey.
    missing : float
        The difference of the two logits less the sum of all pixels' shares.
    """

    png: bytes
    logit: float
    sky: float
    missing: float


@dataclass(frozen=True, repr=False)
class AttributionMap:
    """What a member's score of a cutout comes from, pixel by pixel; a notebook shows it as a picture.

    Attributes
    ----------
    cutout : ndarray
        ``(y, x)`` or ``(y, x, plane)``.
    member : str
        ``name@version``.
    shares : ndarray
        float32 ``(y, x, plane)``: what each pixel adds to the logit, above that of an empty sky.
    logit, sky : float
        Logits, which have no unit: of the cutout, and of an empty sky, all of the cutout's median grey.
    """

    cutout: np.ndarray
    member: str
    shares: np.ndarray
    logit: float
    sky: float

    @property
    def missing(self) -> float:
        """What the shares lack of ``logit - sky``: the error of summing in steps."""
        return self.logit - self.sky - float(self.shares.sum(dtype=np.float64))

    def plot(self) -> Any:
        """Plot the cutout and, beside it, the map.

        Returns
        -------
        holoviews.Layout
            Red where a pixel raises the score, blue where it lowers the score.
        """
        import holoviews as hv

        from deepstreaks_dask import plots

        picture = grey(self.cutout)
        height, width = picture.shape
        size = {"xaxis": None, "yaxis": None, "width": 220, "height": 240, "toolbar": None}
        laid = hv.RGB(_overlay(picture, self.shares), bounds=(0, 0, width, height))
        title = f"{self.member}: logit {self.logit:.2f}"
        shown = plots.gallery(picture[None], ["cutout"], columns=2)
        return (shown + laid.opts(title=title, fontsize={"title": 8}, **size)).cols(2)

    def __repr__(self) -> str:
        return f"<AttributionMap of {self.member}: logit {self.logit:.2f}, of an empty sky {self.sky:.2f}>"

    def _repr_html_(self) -> str:
        picture = grey(self.cutout)
        sides = (picture[..., None].repeat(3, axis=-1), _overlay(picture, self.shares))
        png = base64.b64encode(_png(np.hstack(sides))).decode()
        facts = {"logit": self.logit, "logit of an empty sky": self.sky, "missing": self.missing}
        return (
            f'<img alt="The cutout, and its attribution map" style="image-rendering: pixelated; width: 36em" '
            f'src="data:image/png;base64,{png}">'
            + html_facts(f"Attribution map: {self.member}", facts, note=CAPTION)
        )


_lock = threading.Lock()
_computing = threading.Lock()
_waiting = threading.BoundedSemaphore(_MAX_WAITING_REQUESTS)
_networks: OrderedDict[tuple[Any, ...], Explainer] = OrderedDict()
_maps: OrderedDict[tuple[Any, ...], Map] = OrderedDict()


def explanation_map(
    pixels: np.ndarray, member: str, members: Sequence[Mapping[str, Any]], zoo: str | None
) -> Map:
    """Compute the attribution map of a member's score of a cutout, or return it from the cache.

    Parameters
    ----------
    pixels : ndarray
        The cutout, ``(y, x)`` or ``(y, x, plane)``.
    member : str
        Name of one of the run's members.
    members : sequence of mapping
        From the run's provenance: ``name``, ``version`` and ``sha256`` of each.
    zoo : str, optional
        Zoo of the weights, before the shipped one. The zoo that an archive names is not used: what is loaded is for
        the person who serves the archive to say.

    Returns
    -------
    Map
        The map and its logits.

    Raises
    ------
    ExplanationError
        If the run has no such member, or its weights are in neither zoo.
    TooManyError
        If too many requests are waiting.
    """
    found = [one for one in members if one["name"] == member]
    if not found:
        raise ExplanationError(f"this run has no member {member[:80]!r}")
    network = zoo, f"{member}@{found[0]['version']}", found[0]["sha256"], pixels.shape[:2]
    picture = *network[1:3], hashlib.sha256(pixels.tobytes()).digest()
    if (kept := _cached(_maps, picture)) is not None:
        return kept
    if not _waiting.acquire(blocking=False):
        raise TooManyError("many maps are being computed: try again in a moment")
    try:
        with _computing:
            if (kept := _cached(_maps, picture)) is None:
                explained = _network(*network)(pixels)
                png = _png(_overlay(grey(pixels), explained.shares))
                kept = Map(png, explained.logit, explained.sky, explained.missing)
                _cache(_maps, picture, kept, _MAX_CACHED_MAPS)
            return kept
    finally:
        _waiting.release()


def explain(
    cutout: xr.Dataset | xr.DataArray | np.ndarray,
    member: str,
    *,
    zoo: str | os.PathLike[str] | None = None,
) -> AttributionMap:
    """Compute what a member's score of a cutout comes from, by integrated gradients.

    Parameters
    ----------
    cutout : xarray.Dataset, xarray.DataArray or ndarray
        One cutout, ``(y, x)`` or ``(y, x, plane)``, or a dataset of :func:`~deepstreaks_dask.archive.dataset.open_archive`
        with one: ``cutouts.isel(cutout=17)``.
    member : str
        ``"rb_vgg6"`` for the newest version, or ``"rb_vgg6@1"``.
    zoo : str or path, optional
        Path or URL of the zoo that has the member; the shipped zoo by default.

    Returns
    -------
    AttributionMap
        The share of each pixel in the logit; shown as a picture by a notebook, ``.plot()`` is a HoloViews element.

    Raises
    ------
    ExplanationError
        If this is not one cutout.
    ModelError
        If the zoo has no such member, or the member does not take such a cutout.

    Examples
    --------
    >>> import deepstreaks_dask as ds
    >>> cutouts = ds.open_archive("week.zarr")
    >>> found = ds.explain(cutouts.isel(cutout=0), "rb_vgg6")
    >>> found.shares.shape
    (144, 144, 1)
    >>> abs(found.missing) < 0.1 * max(1, abs(found.logit - found.sky))
    True
    """
    from deepstreaks_dask.models.zoo.store import Zoo

    if isinstance(cutout, xr.Dataset):
        if "cutouts" not in cutout:
            raise ExplanationError("the dataset has no cutouts: open it with open_archive")
        cutout = cutout["cutouts"]
    pixels = np.squeeze(np.asarray(cutout))
    if pixels.ndim not in (2, 3) or min(pixels.shape) < 1:
        raise ExplanationError(f"cutouts of shape {np.shape(cutout)}: choose one, isel(cutout=0)")
    where = None if zoo is None else os.fspath(zoo)
    card = Zoo(where).card(member)
    planes = card.input_shape[2]
    if (pixels.ndim == 3 and pixels.shape[2] != planes) or (pixels.ndim == 2 and planes != 1):
        raise ExplanationError(
            f"cutouts of shape {np.shape(cutout)}: choose one, isel(cutout=0), with {planes} planes, as {card.ref} takes"
        )
    with _computing:
        found = _network(where, card.ref, card.sha256, pixels.shape[:2])(pixels)
    return AttributionMap(pixels, card.ref, found.shares, found.logit, found.sky)


def _network(zoo: str | None, ref: str, sha256: str, size: tuple[int, ...]) -> Explainer:
    from deepstreaks_dask.models.attribution import Explainer
    from deepstreaks_dask.models.zoo.store import find_weights

    if (kept := _cached(_networks, (ref, sha256, size))) is not None:
        return kept
    try:
        store, card = find_weights(ref, sha256, (zoo, None))
    except ModelError as error:
        raise ExplanationError(str(error)) from error
    made = Explainer(store.load(ref, size), card.scaling)
    _cache(_networks, (ref, sha256, size), made, _MAX_CACHED_NETWORKS)
    return made


def _overlay(picture: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Lay shares ``(y, x, plane)`` over a grey picture ``(y, x * plane)``: uint8 ``(y, x * plane, 3)``."""
    planes = np.hstack(
        [gaussian_filter(plane, _SMOOTHING_SIGMA) for plane in np.moveaxis(shares, -1, 0)]
    )
    strength = np.clip(np.abs(planes) / max(float(np.abs(planes).max()), 1e-12) * 1.5, 0, 1)
    light = (picture[..., None] * 0.5 + 127).repeat(3, axis=-1)  # pale, so that colours stand out
    colour = np.where(planes[..., None] > 0, np.array(_COLOUR_FOR), np.array(_COLOUR_AGAINST))
    mixed = light * (1 - strength[..., None]) + colour * strength[..., None]
    return mixed.astype(np.uint8)


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def _cached(store: OrderedDict[tuple[Any, ...], Any], key: tuple[Any, ...]) -> Any:
    """Return a cached value and mark it as the newest; None if there is none."""
    with _lock:
        if key not in store:
            return None
        store.move_to_end(key)
        return store[key]


def _cache(
    store: OrderedDict[tuple[Any, ...], Any], key: tuple[Any, ...], value: Any, size: int
) -> None:
    """Add a value to a cache of limited size, and drop the oldest ones."""
    with _lock:
        store[key] = value
        while len(store) > size:
            store.popitem(last=False)
