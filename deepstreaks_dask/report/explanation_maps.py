"""Explanation maps as pictures, for those who look at cutouts in a browser.

A map takes seconds, so it is made when it is asked for, one at a time, and pictures are kept: so many of them, and
so many networks, that memory stays bounded. :mod:`~deepstreaks_dask.models.attribution` says what a map is, and is not.
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
"""To be read beside a map."""

_MAX_CACHED_NETWORKS = 9
_MAX_CACHED_MAPS = 512
_MAX_WAITING_REQUESTS = 8  # people; more are asked to come again
_SMOOTHING_SIGMA = 1.5  # pixels, sigma: single pixels of shares are too noisy to see anything in
_FOR, _AGAINST = (214, 39, 24), (24, 74, 214)


class ExplanationError(DeepStreaksError):
    """A score cannot be explained here, or not now."""


class TooManyError(ExplanationError):
    """Too many wait for a map already."""


@dataclass(frozen=True)
class Map:
    """A map of what a score comes from.

    Attributes
    ----------
    png : bytes
        The picture.
    logit, sky : float
        Logits, which have no unit: of the cutout, and of an empty sky, all of the cutout's median grey.
    missing : float
        What the shares of the pixels lack of the difference of the two.
    """

    png: bytes
    logit: float
    sky: float
    missing: float


_lock = threading.Lock()
_at_work = threading.Lock()
_places = threading.BoundedSemaphore(_MAX_WAITING_REQUESTS)
_networks: OrderedDict[tuple[Any, ...], Explainer] = OrderedDict()
_maps: OrderedDict[tuple[Any, ...], Map] = OrderedDict()


def explanation_map(
    pixels: np.ndarray, member: str, members: Sequence[Mapping[str, Any]], zoo: str | None
) -> Map:
    """Draw what a member's score of a cutout comes from.

    Parameters
    ----------
    pixels : ndarray
        The cutout, ``(y, x)`` or ``(y, x, plane)``.
    member : str
        Name of one of the run's members.
    members : sequence of mapping
        As the run's provenance has them: ``name``, ``version`` and ``sha256`` of each.
    zoo : str, optional
        Where to look for its weights, before the shipped zoo. An archive names a zoo, too; but who serves an archive
        says what is loaded, and not the archive.

    Returns
    -------
    Map
        The picture, and what it was made from.

    Raises
    ------
    ExplanationError
        If the run has no such member, or its weights are in neither zoo.
    TooManyError
        If too many wait already.
    """
    found = [one for one in members if one["name"] == member]
    if not found:
        raise ExplanationError(f"this run has no member {member[:80]!r}")
    network = zoo, f"{member}@{found[0]['version']}", found[0]["sha256"], pixels.shape[:2]
    picture = *network[1:3], hashlib.sha256(pixels.tobytes()).digest()
    if (kept := _kept(_maps, picture)) is not None:
        return kept
    if not _places.acquire(blocking=False):
        raise TooManyError("many maps are being made just now: ask again in a moment")
    try:
        with _at_work:
            if (kept := _kept(_maps, picture)) is None:
                explained = _network(*network)(pixels)
                png = _overlaid(grey(pixels), explained.shares)
                kept = Map(png, explained.logit, explained.sky, explained.missing)
                _keep(_maps, picture, kept, _MAX_CACHED_MAPS)
            return kept
    finally:
        _places.release()


def _network(zoo: str | None, ref: str, sha256: str, size: tuple[int, ...]) -> Explainer:
    from deepstreaks_dask.models.attribution import Explainer
    from deepstreaks_dask.models.zoo.store import find_weights

    if (kept := _kept(_networks, (ref, sha256, size))) is not None:
        return kept
    try:
        store, card = find_weights(ref, sha256, (zoo, None))
    except ModelError as error:
        raise ExplanationError(str(error)) from error
    made = Explainer(store.load(ref, size), card.scaling)
    _keep(_networks, (ref, sha256, size), made, _MAX_CACHED_NETWORKS)
    return made


def _overlaid(picture: np.ndarray, shares: np.ndarray) -> bytes:
    """Lay shares ``(y, x, plane)`` over a grey picture ``(y, x * plane)`` as PNG."""
    planes = np.hstack(
        [gaussian_filter(plane, _SMOOTHING_SIGMA) for plane in np.moveaxis(shares, -1, 0)]
    )
    strength = np.clip(np.abs(planes) / max(float(np.abs(planes).max()), 1e-12) * 1.5, 0, 1)
    light = (picture[..., None] * 0.5 + 127).repeat(3, axis=-1)  # pale, so that colours stand out
    colour = np.where(planes[..., None] > 0, np.array(_FOR), np.array(_AGAINST))
    mixed = light * (1 - strength[..., None]) + colour * strength[..., None]
    buffer = io.BytesIO()
    Image.fromarray(mixed.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _kept(store: OrderedDict[tuple[Any, ...], Any], key: tuple[Any, ...]) -> Any:
    """Give what is kept, as the newest; None if it is not."""
    with _lock:
        if key not in store:
            return None
        store.move_to_end(key)
        return store[key]


def _keep(
    store: OrderedDict[tuple[Any, ...], Any], key: tuple[Any, ...], value: Any, most: int
) -> None:
    """Keep something, and let go of the oldest where that is too many."""
    with _lock:
        store[key] = value
        while len(store) > most:
            store.popitem(last=False)
