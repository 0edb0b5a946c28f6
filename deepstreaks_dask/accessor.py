"""The accessor ``.streaks`` of datasets that hold cutouts, scores or decisions.

It is registered with the names of :mod:`deepstreaks_dask` that return such datasets; with others by
``import deepstreaks_dask.accessor``. Plots are HoloViews elements, loaded when they are first drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.pictures import grey
from deepstreaks_dask.errors import DeepStreaksError, did_you_mean
from deepstreaks_dask.scoring.decision import Decision, family_of

if TYPE_CHECKING:
    import pandas as pd

    from deepstreaks_dask.evaluation.decision_metrics import Evaluation

_HISTOGRAM_BINS = 50  # between 0 and 1
_NIGHT_PLOTS = ("tpr", "fpr", "candidates")


@xr.register_dataset_accessor("streaks")
class StreaksAccessor:
    """Look at cutouts, scores and decisions: ``dataset.streaks``.

    Parameters
    ----------
    dataset : xarray.Dataset
        As ``open_archive``, ``open_run``, ``score`` or :meth:`Decision.apply` returns it.

    Examples
    --------
    >>> import deepstreaks_dask as ds
    >>> scores = ds.open_run("week.zarr")
    >>> decided = scores.streaks.decide(kd=0.9)
    >>> len(decided.streaks.candidates()) == int(decided["plausible"].sum())
    True
    >>> picture = ds.open_archive("week.zarr").streaks.gallery(n=4)
    >>> curves = decided.streaks.plot.roc()
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    @property
    def plot(self) -> StreaksPlots:
        """Plots of the scores and of what is decided on them."""
        return StreaksPlots(self)

    def decide(
        self,
        thresholds: dict[str, float] | None = None,
        *,
        default: float | None = None,
        **by_name: float,
    ) -> xr.Dataset:
        """Apply thresholds to the scores.

        Parameters
        ----------
        thresholds : dict of str to float, optional
            By member or family.
        default : float, optional
            Threshold of every member that is not named; by default those that the run was scored for, or 0.5.
        **by_name : float
            The same as keyword arguments: ``decide(kd=0.9)``.

        Returns
        -------
        xarray.Dataset
            The same dataset with ``family_pass(cutout, family)``, ``plausible(cutout)`` and ``undecided(cutout)``.

        Raises
        ------
        DeepStreaksError
            If there are no scores, or a threshold names neither a member nor a family of the scores.
        """
        given = {**(thresholds or {}), **by_name}
        if default is not None:
            return Decision(given, default).apply(self._scores())
        return Decision.of_run(self._scores(), given).apply(self._scores())

    def evaluate(self, decision: Decision | None = None) -> Evaluation:
        """Measure members, families and the decision against the labels.

        Parameters
        ----------
        decision : Decision, optional
            By default the one that was applied to the dataset, else the one that the run was scored for, else 0.5
            everywhere.

        Returns
        -------
        Evaluation
            Rates with 95 % intervals; NaN where there are no labels.

        Raises
        ------
        DeepStreaksError
            If there are no scores.
        """
        from deepstreaks_dask.evaluation.decision_metrics import evaluate

        return evaluate(self._scores(), decision or self.decision)

    def candidates(self) -> pd.DataFrame:
        """Tabulate the plausible cutouts.

        Returns
        -------
        pandas.DataFrame
            A row a candidate: what the archive has of it, and a column of scores a member.

        Raises
        ------
        DeepStreaksError
            If there are no scores.
        """
        from deepstreaks_dask.export.candidates import candidate_table

        return candidate_table(self.decided)

    def gallery(self, n: int = 12, *, columns: int = 4) -> Any:
        """Plot cutouts side by side.

        Parameters
        ----------
        n : int
            How many: of a decision the plausible ones, of scores the highest joint scores first, else the first of the
            dataset.
        columns : int
            Cutouts in a row.

        Returns
        -------
        holoviews.Layout or holoviews.Text
            Words where there is no cutout.

        Raises
        ------
        DeepStreaksError
            If the dataset has no cutouts, and does not name its archive.
        """
        from deepstreaks_dask import plots

        rows, captions = self._chosen(n)
        pictures = [grey(pixels) for pixels in self._pixels(rows)]
        height = max((picture.shape[0] for picture in pictures), default=1)
        width = max((picture.shape[1] for picture in pictures), default=1)
        stacked = np.zeros((len(pictures), height, width), np.uint8)
        for place, picture in zip(stacked, pictures, strict=True):
            place[: picture.shape[0], : picture.shape[1]] = picture
        return plots.gallery(stacked, captions, columns=columns)

    @property
    def decision(self) -> Decision:
        """The decision that was applied to the dataset, or the one that its run was scored for."""
        return Decision.of_decided(self._scores())

    @property
    def decided(self) -> xr.Dataset:
        """The dataset with its decision applied, as :meth:`decide` returns it."""
        if "plausible" in self._dataset:
            return self._dataset
        return self.decision.apply(self._scores())

    def _scores(self) -> xr.Dataset:
        if "scores" not in self._dataset:
            raise DeepStreaksError(
                "the dataset has no scores: open a run of the archive, open_run(archive), or score it first"
            )
        return self._dataset

    def _chosen(self, n: int) -> tuple[np.ndarray, list[str]]:
        """Choose cutouts: their places in the dataset, and a caption of each."""
        dataset = self._dataset
        if "epoch" in dataset.dims and "cutout" not in dataset.dims:
            rows = np.arange(min(n, dataset.sizes["epoch"]))
            return rows, [f"epoch {row}" for row in rows]
        if "scores" not in dataset:
            rows = np.arange(min(n, dataset.sizes["cutout"]))
            kinds, nights = (dataset[name][rows].values for name in ("kind", "night"))
            return rows, [_caption(k, m) for k, m in zip(kinds, nights, strict=True)]
        from deepstreaks_dask.evaluation.decision_metrics import joint_scores

        decided = self.decided
        joint = np.asarray(joint_scores(decided))
        order = np.argsort(-np.nan_to_num(joint, nan=-1.0), kind="stable")
        if "plausible" in dataset:
            order = order[decided["plausible"].values[order]]
        rows = order[:n]
        kinds = decided["kind"][rows].values
        return rows, [f"{k or 'cutout'}: {v:.3f}" for k, v in zip(kinds, joint[rows], strict=True)]

    def _pixels(self, rows: np.ndarray) -> np.ndarray:
        """Read the cutouts at places of the dataset, from its archive if need be."""
        dataset = self._dataset
        if "cutouts" not in dataset:
            url = dataset.attrs.get("url")
            if not url:
                raise DeepStreaksError(
                    "the dataset has no cutouts and does not name its archive: open it with open_archive"
                )
            archive = open_archive(url)
            rows = _rows_of(archive, dataset, rows)
            dataset = archive
        along = dataset["cutouts"].dims[0]
        return dataset["cutouts"].isel({along: rows}).values


class StreaksPlots:
    """Plots of a dataset with scores: ``dataset.streaks.plot``.

    Parameters
    ----------
    streaks : StreaksAccessor
        Of the dataset.
    """

    def __init__(self, streaks: StreaksAccessor) -> None:
        self._streaks = streaks

    def scores(self, name: str, *, log: bool = True) -> Any:
        """Plot the distribution of scores by label, with the threshold.

        Parameters
        ----------
        name : str
            Member, or family: of a family the highest score of its members.
        log : bool
            Whether the counts have a logarithmic axis.

        Returns
        -------
        holoviews.Overlay or holoviews.Text
            Words where there are no scores.

        Raises
        ------
        DeepStreaksError
            If there is no such member or family.
        """
        from deepstreaks_dask import plots
        from deepstreaks_dask.evaluation.decision_metrics import family_scores
        from deepstreaks_dask.evaluation.labels import family_labels

        decided, decision = self._streaks.decided, self._streaks.decision
        members = [str(member) for member in decided["model"].values]
        families = [str(family) for family in decided["family"].values]
        if name in members:
            values = decided["scores"].values[:, members.index(name)]
            thresholds = {decision.threshold(name)}
        elif name in families:
            values = np.asarray(family_scores(decided))[:, families.index(name)]
            thresholds = {decision.threshold(one) for one in members if family_of(one) == name}
        else:
            known = [*families, *members]
            raise DeepStreaksError(
                f"no scores of {name!r}: {did_you_mean(name, known)}the run has {', '.join(known)}"
            )
        labels = family_labels(decided, family_of(name))
        looked = ~np.isnan(values)
        groups = {
            words: np.histogram(values[chosen], bins=_HISTOGRAM_BINS, range=(0, 1))[0]
            for label, words in plots.LABEL_NAMES.items()
            if (chosen := (labels == label) & looked).any()
        }
        limit = thresholds.pop() if len(thresholds) == 1 else None
        return plots.histogram(groups, f"Scores of {name}", threshold=limit, log=log)

    def roc(self) -> Any:
        """Plot ROC curves of members, families and the decision, with the decision's own rates as a point.

        Returns
        -------
        holoviews.Overlay or holoviews.Text
            Words where there are no labels.
        """
        from deepstreaks_dask import plots

        found = self._streaks.evaluate()
        if not found.curves:
            return plots.nothing("No labels")
        return plots.roc(found.curves, at=(found.joint.fpr.value, found.joint.tpr.value))

    def precision_recall(self) -> Any:
        """Plot precision over completeness of members, families and the decision.

        Returns
        -------
        holoviews.Overlay or holoviews.Text
            Words where there are no labels.
        """
        from deepstreaks_dask import plots

        found = self._streaks.evaluate()
        return plots.precision_recall(found.curves) if found.curves else plots.nothing("No labels")

    def confusion(self) -> Any:
        """Plot counts of the decision against the labels.

        Returns
        -------
        holoviews.Overlay or holoviews.Text
            Words where there are no labels.
        """
        from deepstreaks_dask import plots

        return plots.confusion(self._streaks.evaluate().joint)

    def venn(self) -> Any:
        """Plot how many cutouts pass which families.

        Returns
        -------
        holoviews.Overlay or holoviews.Text
            Words where there are no cutouts.
        """
        from deepstreaks_dask import plots
        from deepstreaks_dask.evaluation.decision_metrics import venn

        return plots.venn(venn(self._streaks.decided))

    def nights(self, which: str | None = None) -> Any:
        """Plot rates of the decision, or candidates, night by night.

        Parameters
        ----------
        which : str, optional
            ``"tpr"``, ``"fpr"`` or ``"candidates"``; both rates by default, candidates where there are no labels.

        Returns
        -------
        holoviews.Layout, holoviews.Overlay or holoviews.Text
            A point a night with its 95 % interval.

        Raises
        ------
        DeepStreaksError
            If there is no such plot.
        """
        from deepstreaks_dask import plots
        from deepstreaks_dask.evaluation.decision_metrics import rates_by_night

        if which not in (None, *_NIGHT_PLOTS):
            raise DeepStreaksError(f"no plot {which!r}: choose one of {', '.join(_NIGHT_PLOTS)}")
        table = rates_by_night(self._streaks.decided)
        draw: dict[str, Callable[[], Any]] = {
            "tpr": lambda: plots.night_rates(table, "tpr"),
            "fpr": lambda: plots.night_rates(table, "fpr"),
            "candidates": lambda: plots.night_candidates(table),
        }
        if which is not None:
            return draw[which]()
        if not (table["n_pos"].any() or table["n_neg"].any()):
            return draw["candidates"]()
        return (draw["tpr"]() + draw["fpr"]()).cols(1)


def _caption(kind: str, night: int) -> str:
    return ", ".join(filter(None, [str(kind), str(night) if night else ""])) or "cutout"


def _rows_of(archive: xr.Dataset, dataset: xr.Dataset, rows: np.ndarray) -> np.ndarray:
    """Find cutouts of a dataset in its archive, by their places or, if only a part was kept, by their ids."""
    ids = dataset["id"][rows].values.astype(object)
    whole = dataset.sizes["cutout"] == archive.sizes["cutout"]
    if whole and (archive["id"][rows].values.astype(object) == ids).all():
        return rows
    place = {name: row for row, name in enumerate(archive["id"].values.astype(object))}
    missing = [name for name in ids if name not in place]
    if missing:
        raise DeepStreaksError(f"{archive.attrs['url']} has no cutout {missing[0]!r}")
    return np.array([place[name] for name in ids], int)
