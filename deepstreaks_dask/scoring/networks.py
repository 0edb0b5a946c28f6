"""The networks of a campaign on one worker: loaded once, and run all in one pass or one by one.

In full scoring all members are one compiled forward pass. Where they look one by one, each is a pass of its own over
batches of the same shape, filled up where cutouts run out: then a score does not depend on which others look along,
nor on what else is in the batch.

What classifies sequences need be no network: see :class:`~deepstreaks_dask.models.sequence.classifier.Classifier`.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial

import keras
import numpy as np

from deepstreaks_dask.archive.sequences import Sequences
from deepstreaks_dask.errors import CampaignError
from deepstreaks_dask.models.inference import Forward, compile_forward, set_precision
from deepstreaks_dask.models.sequence.classifier import Classifier
from deepstreaks_dask.models.zoo.card import Card
from deepstreaks_dask.models.zoo.store import Zoo
from deepstreaks_dask.scoring.cascade import Cascade, Look, run_cascade

_loading = threading.Lock()


@dataclass(frozen=True)
class Sample:
    """All scores of some cutouts, float32 (cutout, member), and the seconds that each member took for one."""

    scores: np.ndarray
    costs: tuple[float, ...]


class Networks:
    """The members on a worker: all in one pass, or one by one; each look is the mean of four with ``flips``.

    Parameters
    ----------
    models : dict of str to keras.Model
        By reference.
    scalings : list of str
        Of the pixels, for each.
    batch : int
        Cutouts in a pass.
    flips : bool
        Whether four views are looked at and their mean taken.
    """

    def __init__(
        self, models: dict[str, keras.Model], scalings: list[str], batch: int, flips: bool
    ) -> None:
        self.models, self.scalings, self.batch, self.flips = models, scalings, batch, flips
        self.looks: list[Look] = [partial(self._look, ref) for ref in models]
        self._alone: dict[str, Forward] = {}

    @cached_property
    def together(self) -> Forward:
        """All members as one compiled pass."""
        models = list(self.models.values())
        return compile_forward(models, self.batch, self.scalings, flips=self.flips)

    @property
    def halved(self) -> int | None:
        """Cutouts in the smallest call of those that the device's memory was too small for; None if there is none."""
        passes = [*self._alone.values(), *filter(None, [self.__dict__.get("together")])]
        return min((one.size for one in passes if one.size < self.batch), default=None)

    def alone(self, ref: str) -> Forward:
        """Give one member as a compiled pass of its own."""
        if ref not in self._alone:  # a member that never looks is never compiled
            scaling = self.scalings[list(self.models).index(ref)]
            self._alone[ref] = compile_forward(
                [self.models[ref]], self.batch, [scaling], flips=self.flips
            )
        return self._alone[ref]

    def score(self, cutouts: np.ndarray, cascade: Cascade | None) -> np.ndarray:
        """Score cutouts ``(cutout, y, x)``: float32 (cutout, member), NaN where a cascade spares a look.

        Parameters
        ----------
        cutouts : ndarray
            uint8 ``(cutout, y, x)``.
        cascade : Cascade, optional
            Who looks when; all look by default.

        Returns
        -------
        ndarray
            float32 ``(cutout, member)``.
        """
        if cascade is None:
            return _finite(self.together(cutouts), list(self.models))
        return run_cascade(cutouts, self.looks, np.array(cascade.limits, np.float32), cascade.order)

    def sample(self, cutouts: np.ndarray) -> Sample:
        """Score cutouts, uint8 ``(n, y, x)``, by each member; its last batch tells its cost, since the first warms up."""
        columns, costs = [], []
        whole = max(0, (len(cutouts) - 1) // self.batch * self.batch)
        for ref, look in zip(self.models, self.looks, strict=True):
            self.alone(ref)  # compiled outside of what is timed
            before = [look(cutouts[:whole])] if whole else []
            start = time.perf_counter()
            columns.append(np.concatenate([*before, look(cutouts[whole:])]))
            costs.append((time.perf_counter() - start) / self.batch)
        return Sample(np.stack(columns, axis=1), tuple(costs))

    def _look(self, ref: str, cutouts: np.ndarray) -> np.ndarray:
        return _finite(self.alone(ref)(cutouts), [ref])[:, 0]


class Classifiers:
    """The members on a worker that classify sequences.

    Parameters
    ----------
    members : dict of str to Classifier
        By reference.
    """

    def __init__(self, members: dict[str, Classifier]) -> None:
        self.members = members

    def score(self, sequences: Sequences) -> np.ndarray:
        """Give the probabilities of objects, float32 (object, member, class).

        Parameters
        ----------
        sequences : Sequences
            Objects with their stamps.

        Returns
        -------
        ndarray
            float32 ``(object, member, class)``.

        Raises
        ------
        CampaignError
            If a member gives no number.
        """
        scores = np.stack([member.predict(sequences) for member in self.members.values()], axis=1)
        broken = np.flatnonzero(~np.isfinite(scores).all(axis=(0, 2)))
        if len(broken):
            raise CampaignError(_broken([list(self.members)[k] for k in broken]))
        return scores.astype(np.float32, copy=False)


def _finite(scores: np.ndarray, refs: list[str]) -> np.ndarray:
    broken = np.flatnonzero(~np.isfinite(scores).all(axis=0))
    if len(broken):
        raise CampaignError(_broken([refs[k] for k in broken]))
    return scores


def _broken(refs: list[str]) -> str:
    return f"{', '.join(refs)} gives no finite score: its weights are broken"


def load(
    zoo: str | None,
    members: tuple[tuple[str, str], ...],
    size: tuple[int, int],
    batch: int,
    precision: str,
    flips: bool = False,
) -> Networks:
    """Give the members; the first time they are loaded and checked against their hashes.

    Parameters
    ----------
    zoo : str, optional
        Path or URL; the shipped one by default.
    members : sequence of (str, str)
        References and SHA-256.
    size : (int, int)
        Height and width of the cutouts, pixels.
    batch : int
        Cutouts in a pass.
    precision : str
        Such as ``float32``.
    flips : bool
        Whether four views are looked at and their mean taken.

    Returns
    -------
    Networks
        Kept in this process for the next call.
    """
    with _loading:  # two threads must not load the same networks at once
        return _load_once(zoo, members, size, batch, precision, flips)


@lru_cache(maxsize=2)  # the members, and who looks first
def _load_once(
    zoo: str | None,
    members: tuple[tuple[str, str], ...],
    size: tuple[int, int],
    batch: int,
    precision: str,
    flips: bool,
) -> Networks:
    """Load the members once a worker; the hashes are part of the key."""
    store = Zoo(zoo)
    scalings = [_checked(store, ref, sha256).scaling for ref, sha256 in members]
    models = {ref: store.load(ref, size) for ref, _ in members}
    if precision != "float32":
        for model in models.values():
            set_precision(model, precision)
    return Networks(models, scalings, batch, flips)


def load_classifiers(zoo: str | None, members: tuple[tuple[str, str], ...]) -> Classifiers:
    """Give the members that classify sequences; the first time they are loaded and checked against their hashes.

    Parameters
    ----------
    zoo : str or None
        Path or URL; the shipped one by default.
    members : sequence of (str, str)
        References and SHA-256.

    Returns
    -------
    Classifiers
        Kept in this process for the next call.
    """
    with _loading:
        return _load_classifiers_once(zoo, members)


@lru_cache(maxsize=2)
def _load_classifiers_once(zoo: str | None, members: tuple[tuple[str, str], ...]) -> Classifiers:
    store = Zoo(zoo)
    for ref, sha256 in members:
        _checked(store, ref, sha256)
    return Classifiers({ref: store.load_classifier(ref) for ref, _ in members})


def _checked(store: Zoo, ref: str, sha256: str) -> Card:
    card = store.card(ref)
    if card.sha256 != sha256:
        raise CampaignError(f"the weights of {ref} changed since the campaign began")
    return card
