"""Guaranteed triage: one cheap first look rejects what is surely not plausible, and keeps almost all that is.

A cutout whose first score is below a threshold is rejected; the others go through the exact cascade. The threshold is
taken from *calibration nights*, of which it is known what the members accept, such that with 95 % confidence fewer
than 0.1 % of what they would accept is lost. That bounds the loss itself, not its mean over many calibrations (as
risk-controlling prediction sets do: Bates et al. 2021, J. ACM 68, 43, arXiv:2101.02703, and Angelopoulos et al. 2021,
arXiv:2110.01052; conformal risk control, arXiv:2208.02814, bounds the mean). The loss is a proportion that grows with
the threshold, so the exact binomial bound of Clopper and Pearson (1934, Biometrika 26, 404) holds at the highest
threshold that meets it, whatever the distribution of the scores: a one-sided tolerance limit (Wilks 1941, Ann. Math.
Stat. 12, 91).

What it rests on: plausible cutouts to come are drawn as those of the calibration nights were. Cutouts of one night
share its weather, so the bound is that of fewer, independent cutouts, by the design effect of the nights (Korn and
Graubard 1998, Surv. Methodol. 24, 193). That effect is an estimate, good where there are many nights. A bound that
draws whole nights and takes nothing for granted would need 2,995 of them.

A night whose first scores lie further from the calibration nights' than these lie from each other is taken for one
that has *drifted*, and nothing of it is rejected.
"""

from __future__ import annotations

import json
import math
import os
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from scipy.stats import beta, binomtest

from deepstreaks_dask.errors import TriageError
from deepstreaks_dask.utils.html import html_facts
from deepstreaks_dask.utils.storage import locate, storage_errors, write_whole
from deepstreaks_dask.utils.validation import STRICT, validate_json

FORMAT = "deepstreaks-triage"
VERSION = 1
MAX_LOSS = 0.001
"""Share of the plausible cutouts that may be lost."""

CONFIDENCE_LEVEL = 0.95
"""Of the statement that no more is lost."""

DRIFT_SIGNIFICANCE = 0.05
"""Of the test for drift, night by night: among nights like the calibration's so many are taken for drifted at most
(or one in as many as there are calibration nights, and one, where these are fewer). It is not corrected for the number
of nights: a false alarm costs time, and a correction would hide drift."""

MIN_NIGHTS = 5
"""Calibration nights without which there is no telling what drift is."""

_SCORE_BINS = 64
_TAIL_FRACTION = (
    0.02  # share of the plausible cutouts whose spread over the nights tells the design effect
)
_MAX_FILE_BYTES = 16_000_000  # bytes of a file
_MAX_BIN_COUNT = 2**53  # cutouts in a bin

_Share = Annotated[float, Field(ge=0, le=1)]
_Count = Annotated[int, Field(ge=0, le=_MAX_BIN_COUNT)]


@dataclass(frozen=True)
class Checked:
    """What was lost on nights that the calibration did not use, with an exact 95 % interval of the share."""

    __pydantic_config__ = STRICT

    nights: tuple[int, ...]
    plausible: _Count
    lost: _Count
    low: float
    high: float

    @classmethod
    def count(cls, nights: Sequence[int] | np.ndarray, plausible: int, lost: int) -> Checked:
        """Count.

        Parameters
        ----------
        nights : sequence of int
            ``(night,)``, YYYYMMDD each.
        plausible, lost : int
            Of their cutouts, and of these.

        Returns
        -------
        Checked
            With an exact 95 % interval (Clopper and Pearson 1934).
        """
        low, high = 0.0, 1.0
        if plausible:
            low, high = binomtest(lost, plausible).proportion_ci(0.95, method="exact")
        return cls(tuple(map(int, nights)), plausible, lost, float(low), float(high))


@dataclass(frozen=True, repr=False)
class Triage:
    """A first look, its threshold, and what is known of the loss.

    Attributes
    ----------
    first, sha256, zoo : str
        The network of the first look, as ``name@version``, the hash of its weights, and where it lies.
    threshold : float
        A cutout of a lower first score is rejected.
    members : mapping of str to str
        Hash of each member's weights by ``name@version``: whose acceptance is kept.
    limits : mapping of str to float
        Threshold of each member that decides.
    order : tuple of tuple of str
        Members in the order in which they look at what the first look keeps, family by family.
    dtype : str
        Precision of the scores.
    loss, confidence : float
        Less than this share is lost, with this confidence.
    nights : tuple of int
        Calibration nights, ``YYYYMMDD``.
    plausible, lost : int
        Plausible cutouts of these, and those among them that the threshold rejects.
    design_effect : float
        Cutouts that count as one, since those of a night are alike; 1 where they are not.
    cutouts, rejected : int
        All cutouts of these nights, and those that the threshold rejects.
    checked : Checked
        The loss on other nights.
    edges : tuple of float
        Between bins of first scores.
    histograms : tuple of tuple of int
        Cutouts of each calibration night in each bin, ``(night, bin)``.
    archive, run : str
        Where it was calibrated.
    """

    __pydantic_config__ = STRICT

    first: str
    sha256: str
    zoo: str | None
    threshold: _Share
    members: Mapping[str, str]
    limits: Mapping[str, _Share]
    order: tuple[tuple[str, ...], ...]
    dtype: str
    loss: _Share
    confidence: _Share
    nights: tuple[int, ...]
    plausible: _Count
    lost: _Count
    design_effect: float
    cutouts: _Count
    rejected: _Count
    checked: Checked
    edges: tuple[_Share, ...]
    histograms: tuple[tuple[_Count, ...], ...]
    archive: str = ""
    run: str = ""

    def __repr__(self) -> str:
        return (
            f"<Triage: {self.first} rejects below {self.threshold:.6g}; fewer than {self.loss:.1%} of the plausible "
            f"lost with {self.confidence:.0%} confidence>"
        )

    def _repr_html_(self) -> str:
        share = self.rejected / self.cutouts if self.cutouts else float("nan")
        facts = {
            "first look": self.first,
            "threshold": f"{self.threshold:.6g}",
            "rejected": f"{self.rejected:,} of {self.cutouts:,} calibration cutouts ({share:.1%})",
            "plausible lost": f"{self.lost:,} of {self.plausible:,}",
            "calibration nights": len(self.nights),
            "members": ", ".join(self.members),
        }
        return html_facts("Triage", facts, note=f"{self.guarantee} {self.seen}")

    @property
    def guarantee(self) -> str:
        """The guarantee and what it rests on, in words."""
        effect = (
            f" (which count as {self.plausible / self.design_effect:,.0f}: cutouts of a night are alike)"
            if self.design_effect > 1
            else ""
        )
        return (
            f"With {self.confidence:.0%} confidence fewer than {self.loss:.1%} of the cutouts that all members would "
            f"accept are lost, provided that plausible cutouts are drawn as those of the calibration nights were: "
            f"{self.plausible:,} plausible cutouts{effect} of {len(self.nights)} nights, "
            f"{self.lost:,} of them below the threshold {self.threshold:.6g} of {self.first}."
        )

    @property
    def seen(self) -> str:
        """The loss on nights that were not used, in words."""
        checked = self.checked
        if not checked.plausible:
            return "The loss was not measured on other nights."
        return (
            f"On {len(checked.nights)} nights that were not used {checked.lost:,} of {checked.plausible:,} "
            f"plausible cutouts were lost: {checked.lost / checked.plausible:.2%}, "
            f"95 % interval {checked.low:.2%} to {checked.high:.2%}."
        )

    def drift(self, scores: np.ndarray) -> float:
        """Say how alike a night's first scores are to those of the calibration nights.

        Parameters
        ----------
        scores : ndarray
            First scores of the night, ``(cutout,)``.

        Returns
        -------
        float
            Share of the nights, it and the calibration nights, that lie as far from the others as it does: small if
            it is unlike them. The distance is Kolmogorov's and Smirnov's, of a night's scores to the mean of the
            others', on :attr:`edges`; it is compared by ranks, as conformal tests do (Vovk et al. 2005, Algorithmic
            Learning in a Random World), so that a level holds for nights drawn alike, however much these differ.
        """
        table = np.vstack([self.histograms, histogram(scores, self.edges)]).astype(float)
        shares = np.cumsum(table, axis=1) / table.sum(axis=1, keepdims=True)
        others = (shares.sum(axis=0) - shares) / (len(shares) - 1)
        distance = np.abs(shares - others).max(axis=1)
        return float((distance >= distance[-1]).mean())

    @property
    def level(self) -> float:
        """Level of the test for drift of one night, which has drifted if :meth:`drift` gives no more."""
        return max(DRIFT_SIGNIFICANCE, 1 / (len(self.nights) + 1))

    def to_dict(self) -> dict[str, Any]:
        """Give all of it as JSON can hold it."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Triage:
        """Take what :meth:`to_dict` gave.

        Parameters
        ----------
        values : mapping
            As JSON holds it.

        Returns
        -------
        Triage
            Checked.

        Raises
        ------
        TriageError
            If it says what cannot be.
        """
        try:
            text = json.dumps(dict(values))
            triage = validate_json(cls, text, source="this is no triage", error=TriageError)
            counted = triage.checked
            checked = Checked.count(counted.nights, counted.plausible, counted.lost)
            _check_figures(triage)
        except (TypeError, ValueError, RecursionError) as error:
            raise TriageError(f"this is no triage: {error}") from error
        return replace(triage, checked=checked)


def losses_allowed(
    plausible: int,
    loss: float = MAX_LOSS,
    confidence: float = CONFIDENCE_LEVEL,
    effect: float = 1.0,
) -> int:
    """Give how many plausible calibration cutouts a threshold may lose.

    Parameters
    ----------
    plausible : int
        Plausible calibration cutouts.
    loss, confidence : float
        The share lost is to be at most ``loss``, with this confidence.
    effect : float
        Design effect: so many cutouts count as one.

    Returns
    -------
    int
        The most for which Clopper's and Pearson's upper bound is within ``loss``; -1 if it is not even for none.
    """

    def within(lost: int) -> bool:
        bound = beta.ppf(confidence, lost / effect + 1, (plausible - lost) / effect)
        return bool(bound <= loss)

    # the bound grows with what is lost; a file may claim more cutouts than can be listed
    return bisect_left(range(int(plausible * loss) + 1), True, key=lambda k: not within(k)) - 1


def cutouts_needed(
    loss: float = MAX_LOSS, confidence: float = CONFIDENCE_LEVEL, effect: float = 1.0
) -> int:
    """Give the fewest plausible calibration cutouts that allow any threshold.

    Parameters
    ----------
    loss, confidence : float
        Share that may be lost, and how sure that must be.
    effect : float
        Design effect of the nights.

    Returns
    -------
    int
        Cutouts.
    """
    return math.ceil(effect * math.log1p(-confidence) / math.log1p(-loss))


def design_effect(scores: np.ndarray, nights: np.ndarray) -> float:
    """Estimate how many plausible cutouts count as one, since those of a night are alike.

    Parameters
    ----------
    scores, nights : ndarray
        First score and night of each plausible cutout, ``(cutout,)``.

    Returns
    -------
    float
        Variance of the share in the lower tail with nights drawn as a whole, over that with cutouts drawn one by
        one; at least 1 (Kish 1965, Survey Sampling).
    """
    low = scores <= np.quantile(scores, _TAIL_FRACTION)
    _, place, sizes = np.unique(nights, return_inverse=True, return_counts=True)
    share, number, total = low.mean(), len(sizes), len(low)
    if number < 2 or share == 1:
        return 1.0
    apart = np.bincount(place, low - share)
    clustered = (apart**2).sum() * number / (number - 1)
    effect = clustered * (total - 1) / (total**2 * share * (1 - share))
    return max(1.0, round(float(effect), 6))


def choose_threshold(
    scores: np.ndarray,
    nights: np.ndarray,
    loss: float = MAX_LOSS,
    confidence: float = CONFIDENCE_LEVEL,
) -> tuple[float, float]:
    """Choose the highest threshold that loses few enough plausible cutouts.

    Parameters
    ----------
    scores, nights : ndarray
        First score, float32, and night of each plausible calibration cutout, ``(cutout,)``.
    loss, confidence : float
        What is to be kept to, 0 to 1 each.

    Returns
    -------
    threshold, effect : float
        Reject scores below ``threshold``; the design effect of the nights.

    Raises
    ------
    TriageError
        If there are too few cutouts, saying how many are missing.
    """
    effect = design_effect(scores, nights) if len(scores) else 1.0
    allowed = losses_allowed(len(scores), loss, confidence, effect) if len(scores) else -1
    if allowed < 0:
        needed = cutouts_needed(loss, confidence, effect)
        alike = f" ({effect:.1f} count as one: those of a night are alike)" if effect > 1 else ""
        raise TriageError(
            f"{len(scores):,} plausible calibration cutouts{alike}: to say with {confidence:.0%} "
            f"confidence that fewer than {loss:.1%} are lost takes {needed:,}, "
            f"{needed - len(scores):,} more; score more nights to calibrate on, or decide exactly"
        )
    return float(np.partition(scores, allowed)[allowed]), effect


def histogram(scores: np.ndarray, edges: Sequence[float] | np.ndarray) -> np.ndarray:
    """Count scores between edges, int64 ``(bin,)``: one bin more than edges.

    Parameters
    ----------
    scores : ndarray
        ``(cutout,)``.
    edges : ndarray
        ``(edge,)``, rising.

    Returns
    -------
    ndarray
        int64 ``(edge + 1,)``.
    """
    bins = np.searchsorted(np.asarray(edges, np.float32), scores, side="right")
    return np.bincount(bins, minlength=len(edges) + 1)


def calibrate_triage(
    looked: np.ndarray,
    plausible: np.ndarray,
    nights: np.ndarray,
    checked: Sequence[int] | np.ndarray,
    *,
    loss: float = MAX_LOSS,
    confidence: float = CONFIDENCE_LEVEL,
    **known: Any,
) -> Triage:
    """Calibrate a first look on nights whose decisions are known.

    Parameters
    ----------
    looked : ndarray
        First scores, float32 ``(cutout,)``.
    plausible : ndarray
        What all members accept, bool ``(cutout,)``.
    nights : ndarray
        Night of each cutout, YYYYMMDD, ``(cutout,)``.
    checked : sequence of int
        ``(night,)``: nights to measure the loss on; the others calibrate.
    loss, confidence : float
        What is to be kept to, 0 to 1 each.
    **known
        ``first``, ``sha256``, ``zoo``, ``members``, ``limits``, ``order``, ``dtype``, ``archive`` and ``run`` of
        :class:`Triage`.

    Returns
    -------
    Triage
        With its threshold and what was seen elsewhere.

    Raises
    ------
    TriageError
        If there are too few nights, or too few plausible cutouts, for the guarantee.
    """
    mine = ~np.isin(nights, checked)
    names = np.unique(nights[mine])
    if len(names) < MIN_NIGHTS:
        raise TriageError(
            f"{len(names)} calibration nights: at least {MIN_NIGHTS} are needed to tell a night that drifted"
        )
    threshold, effect = choose_threshold(
        looked[mine & plausible], nights[mine & plausible], loss, confidence
    )
    rejected = looked < np.float32(threshold)
    inner = np.quantile(looked[mine], np.arange(1, _SCORE_BINS) / _SCORE_BINS, method="lower")
    edges = np.unique(np.append(inner, np.float32(threshold)))
    lost = plausible & rejected
    return Triage(
        threshold=threshold,
        loss=loss,
        confidence=confidence,
        nights=tuple(map(int, names)),
        plausible=int((mine & plausible).sum()),
        lost=int((mine & lost).sum()),
        design_effect=effect,
        cutouts=int(mine.sum()),
        rejected=int((mine & rejected).sum()),
        checked=Checked.count(checked, int((~mine & plausible).sum()), int((~mine & lost).sum())),
        edges=tuple(map(float, edges)),
        histograms=tuple(
            tuple(map(int, histogram(looked[nights == night], edges))) for night in names
        ),
        **known,
    )


def write_triage(triage: Triage, path: str | os.PathLike[str]) -> None:
    """Write a triage as JSON to a path or URL, in one step.

    Parameters
    ----------
    triage : Triage
        To write.
    path : str or path
        Path or URL.

    Raises
    ------
    TriageError
        If it cannot be written there.
    """
    text = json.dumps({"format": FORMAT, "version": VERSION, **triage.to_dict()})
    with storage_errors(path, "write", TriageError):
        fs, root = locate(path)
        write_whole(fs, root, text.encode())


def read_triage(path: str | os.PathLike[str]) -> Triage:
    """Read what :func:`write_triage` has written.

    Parameters
    ----------
    path : str or path
        Path or URL.

    Returns
    -------
    Triage
        Checked.

    Raises
    ------
    TriageError
        If it cannot be read, or is no such file.
    """
    with storage_errors(path, "read", TriageError):
        fs, root = locate(path)
        data = fs.cat_file(root, start=0, end=_MAX_FILE_BYTES + 1)
        if len(data) > _MAX_FILE_BYTES:
            raise TriageError(f"{path} is too large for a triage")
        values = json.loads(data)
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise TriageError(f"{path} holds no triage: make one with 'deepstreaks triage fit'")
    if (version := values.pop("version", None)) != VERSION:
        raise TriageError(f"{path} is of version {version}: this reads {VERSION}")
    try:
        return Triage.from_dict(values)
    except TriageError as error:
        raise TriageError(
            f"{path} is damaged: {error}; make it anew with 'deepstreaks triage fit'"
        ) from error


def _check_figures(triage: Triage) -> None:
    """Refuse a triage whose figures do not agree with each other."""
    counts = np.array(triage.histograms)
    if counts.shape != (len(triage.nights), len(triage.edges) + 1):
        raise ValueError(
            "histograms: must have a row a night and a column more than there are edges"
        )
    allowed = losses_allowed(triage.plausible, triage.loss, triage.confidence, triage.design_effect)
    relations = {
        "order: must name the members of limits, each once": sorted(
            name for family in triage.order for name in family
        )
        == sorted(triage.limits),
        "edges: must be in ascending order": list(triage.edges) == sorted(set(triage.edges)),
        f"nights: must be {MIN_NIGHTS} or more": len(triage.nights) >= MIN_NIGHTS,
        "histograms: must have cutouts in every night": counts.sum(axis=1).min(initial=1) >= 1,
        "design_effect: must be 1 to the number of plausible cutouts": 1
        <= triage.design_effect
        <= max(1, triage.plausible),
        f"lost: must be {allowed} or fewer for this guarantee": triage.lost <= allowed,
    }
    for requirement, holds in relations.items():
        if not holds:
            raise ValueError(requirement)
