"""Attribution maps as images, for dashboards.

A map takes seconds, so maps are computed on request, one at a time. Maps and networks are cached, up to a fixed number of
each, so that memory stays bounded. :mod:`~deepstreaks_dask.models.attribution` describes what a map means.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from deepstreaks_dask.archive.pictures import grey
from deepstreaks_dask.errors import DeepStreaksError, ModelError

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
                png = _overlaid(grey(pixels), explained.shares)
                kept = Map(png, explained.logit, explained.sky, explained.missing)
                _cache(_maps, picture, kept, _MAX_CACHED_MAPS)
            return kept
    finally:
        _waiting.release()


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


def _overlaid(picture: np.ndarray, shares: np.ndarray) -> bytes:
    """Lay shares ``(y, x, plane)`` over a grey picture ``(y, x * plane)`` as PNG."""
    planes = np.hstack(
        [gaussian_filter(plane, _SMOOTHING_SIGMA) for plane in np.moveaxis(shares, -1, 0)]
    )
    strength = np.clip(np.abs(planes) / max(float(np.abs(planes).max()), 1e-12) * 1.5, 0, 1)
    light = (picture[..., None] * 0.5 + 127).repeat(3, axis=-1)  # pale, so that colours stand out
    colour = np.where(planes[..., None] > 0, np.array(_COLOUR_FOR), np.array(_COLOUR_AGAINST))
    mixed = light * (1 - strength[..., None]) + colour * strength[..., None]
    buffer = io.BytesIO()
    Image.fromarray(mixed.astype(np.uint8)).save(buffer, "PNG")
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
