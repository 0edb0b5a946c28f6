"""The page of sequences: confusion and recall of members, and a player of single objects."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from bokeh.models import Span
from PIL import Image

from deepstreaks_dask import plots
from deepstreaks_dask.apps.explore.base_page import ExplorePage
from deepstreaks_dask.apps.explore.sequence_messages import (
    SCHEMA,
    ChooseMember,
    ChooseObject,
    Followed,
    FollowEpochs,
    ListObjects,
    MemberRates,
    ObjectList,
    PlayedObject,
    Probabilities,
    Ready,
    ShowEpoch,
)
from deepstreaks_dask.apps.explore.session import check_choice
from deepstreaks_dask.apps.explore.tables import table_rows
from deepstreaks_dask.apps.visitor import Visitor
from deepstreaks_dask.archive.retraction import stored_rows
from deepstreaks_dask.archive.sequences import Sequences, read_objects
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.evaluation.metrics import Estimate
from deepstreaks_dask.evaluation.sequence_metrics import (
    EvaluationError,
    SequenceEvaluation,
    evaluate_sequences,
)
from deepstreaks_dask.photometry.core import Photometry
from deepstreaks_dask.scoring.runs import open_run

MAX_LISTED_OBJECTS = 300
MAX_FOLLOWED_OBJECTS = 256
"""Objects whose classes are computed after each epoch."""

ANY_CLASS = "*"


class SequencePage(ExplorePage):
    """One person's page of a run of sequences.

    Parameters
    ----------
    archive, run, zoo, visitor
        As for :class:`~deepstreaks_dask.apps.explore.base_page.ExplorePage`.

    Attributes
    ----------
    scores, evaluation
        The run, and its rates on objects of known class, None if there are none; set by :meth:`begin`.
    member : str
        The member whose classes are shown.
    row : int
        The object in the player; -1 for none.
    """

    template_name = "sequences"
    dimension = "object"
    schema = SCHEMA
    heights: ClassVar[Mapping[str, int]] = {
        "confusion": 400,
        "epochs": 320,
        "curve": 320,
        "probabilities": 320,
    }

    def __init__(
        self,
        archive: str | os.PathLike[str],
        run: str,
        zoo: str | None = None,
        visitor: Visitor | None = None,
    ) -> None:
        super().__init__(archive, run, zoo, visitor)
        self.row, self.member = -1, ""
        self._epoch_marks: list[tuple[Span, np.ndarray]] = []
        self.handlers = {
            ChooseMember: self._choose_member,
            ListObjects: lambda message: self._list(message.truth, message.taken),
            ChooseObject: self._choose_object,
            ShowEpoch: self._show_epoch,
            FollowEpochs: self._follow,
        }

    def variables(self) -> dict[str, Any]:
        """Return the template's variables that the page of cutouts does not have."""
        return {"objects": self.source.size, "followed": MAX_FOLLOWED_OBJECTS}

    def load(self) -> tuple[xr.Dataset, SequenceEvaluation | None]:
        """Read the scores ``(object, member, class)`` and measure them; called on another thread."""
        scores = open_run(self.source.archive, self.source.run, cache=True)
        try:
            return scores, evaluate_sequences(scores)
        except EvaluationError:  # without a known class there is still the player
            return scores, None

    def begin(self, loaded: tuple[xr.Dataset, SequenceEvaluation | None]) -> None:
        """Show the first member.

        Parameters
        ----------
        loaded : tuple
            As :meth:`load` returns it.
        """
        self.scores, self.evaluation = loaded
        self.classes = [str(name) for name in self.scores["class"].values]
        self.members = [str(name) for name in self.scores["member"].values]
        self.kinds = self.scores["kind"].values.astype(object).astype(str)
        self.member = self.members[0]
        self.bridge.send(Ready(members=self.members, classes=self.classes))
        self.figures.draw("epochs", plots.nothing("Not computed yet"))
        self._show_member()

    # Members and classes

    def _choose_member(self, message: ChooseMember) -> None:
        self.member = check_choice(message.name, self.members)
        self._show_member()

    def _show_member(self) -> None:
        if self.evaluation is None:
            words = "No object has a class: nothing to measure"
            self.figures.draw("confusion", plots.nothing(words))
            self.bridge.send(MemberRates(name=self.member))
        else:
            rates = self.evaluation.members[self.members.index(self.member)]
            title = f"Confusion of {self.member}"
            matrix = plots.class_confusion(rates.matrix, self.classes, title)
            self.figures.draw("confusion", matrix)
            tiles = [
                _tile("Average recall", rates.recall),
                _tile("Average F1", rates.f1),
                _tile("Accuracy", rates.accuracy),
            ]
            rows = table_rows(rates.table)
            self.bridge.send(MemberRates(name=self.member, tiles=tiles, classes=rows))
        self._list(ANY_CLASS, ANY_CLASS)

    def _list(self, truth: str, predicted: str) -> None:
        """List objects of a true and a predicted class, the surest first."""
        choices = (ANY_CLASS, "", *self.classes)
        check_choice(truth, choices)
        check_choice(predicted, choices)
        values = self.scores["scores"].values[:, self.members.index(self.member)]
        scored = np.isfinite(values).all(axis=1)
        best = np.where(scored, np.nan_to_num(values).argmax(axis=1), -1)
        chosen = np.ones(len(values), bool)
        if truth != ANY_CLASS:
            chosen &= self.kinds == truth
        if predicted != ANY_CLASS:
            chosen &= best == (self.classes.index(predicted) if predicted else -1)
        rows = np.flatnonzero(chosen)
        highest = np.where(scored, np.nan_to_num(values).max(axis=1), 0)
        rows = rows[np.argsort(-highest[rows], kind="stable")]
        listed = [
            {
                "row": int(row),
                "id": str(self.scores["id"].values[row]),
                "kind": self.kinds[row],
                "taken": self.classes[best[row]] if best[row] >= 0 else "",
                "sure": float(highest[row]),
            }
            for row in rows[:MAX_LISTED_OBJECTS]
        ]
        self.bridge.send(ObjectList(objects=listed, total=len(rows)))

    def _follow(self, message: FollowEpochs) -> None:
        """Compute classes epoch by epoch on another thread, which loads the networks."""

        def work() -> Any:
            from deepstreaks_dask.evaluation.epoch_by_epoch import follow

            zoos = (self.source.zoo, None)
            return follow(self.scores, objects=MAX_FOLLOWED_OBJECTS, zoos=zoos)

        self.bridge.later(work, self._show_followed, long=True)

    def _show_followed(self, curves: Any) -> None:
        if curves:
            recalls = {
                name: table[["epochs"]].assign(value=table["recall"])
                for name, table in curves.items()
            }
            accuracies = {f"{name}, accuracy": table for name, table in curves.items()}
            element = plots.estimates(
                recalls | accuracies,
                "epochs",
                title="Average recall, and accuracy with its 95 % band",
                xlabel="epochs seen (objects that have as many)",
                ylabel="share",
            )
        else:
            element = plots.nothing("No member of this run classifies epoch by epoch")
        self.figures.draw("epochs", element)
        self.bridge.send(Followed())

    # The player

    def _choose_object(self, message: ChooseObject) -> None:
        row = message.row
        if row >= self.source.size:
            raise DeepStreaksError(f"there is no object {row}")
        self.row = row
        self.bridge.later(lambda: self._read(row), self._show_object)

    def _read(self, row: int) -> tuple[int, Sequences, Photometry]:
        from deepstreaks_dask.photometry.features import measure_objects

        stored = int(stored_rows(self.scores)[row])
        found = read_objects(self.scores.attrs["url"], stored, stored + 1)
        if found.sequences is None:
            why = found.failures[0][2] if found.failures else "nothing of it can be read"
            raise DeepStreaksError(f"{self.scores['id'].values[row]}: {why}")
        return row, found.sequences, measure_objects(found.sequences)

    def _show_object(self, read: tuple[int, Sequences, Photometry]) -> None:
        row, sequence, measured = read
        if row != self.row:
            return  # another object was chosen meanwhile
        mjd = np.asarray(sequence.epochs["mjd"], float)
        days, flux = mjd - mjd[0], measured.psf
        band = np.asarray(sequence.epochs["band"]).astype(object).astype(str)
        curve = plots.light_curve(days, flux.flux, flux.flux_error, band)
        self._epoch_marks = [_add_mark(self.figures.draw("curve", curve), days)]
        epochs = [
            {
                "mjd": float(mjd[k]),
                "band": band[k],
                "flux": _finite(flux.flux[k]),
                "error": _finite(flux.flux_error[k]),
                "magnitude": _finite(flux.magnitude[k]),
            }
            for k in range(len(mjd))
        ]
        values = self.scores["scores"].values[row]
        scores = [
            {"member": name, "values": [_finite(value) for value in values[k]]}
            for k, name in enumerate(self.members)
        ]
        self.bridge.send(
            PlayedObject(
                row=row,
                id=str(self.scores["id"].values[row]),
                kind=self.kinds[row],
                strip=_strip_png(sequence.stamps),
                side=sequence.stamps.shape[1],
                epochs=epochs,
                scores=scores,
            )
        )
        self.figures.draw("probabilities", plots.nothing("Computing"))
        self.bridge.later(
            lambda: self._predict_epochs(sequence),
            lambda given: self._show_probabilities(row, given, len(days)),
            long=True,
        )

    def _predict_epochs(self, sequence: Sequences) -> dict[str, np.ndarray]:
        """Return probabilities ``(epoch, class)`` after each epoch, by member that classifies epoch by epoch."""
        from deepstreaks_dask.evaluation.epoch_by_epoch import online_members

        given = {}
        zoos = (self.source.zoo, None)
        for name, (store, card) in online_members(self.scores, zoos).items():
            classifier: Any = store.load_classifier(card.ref)
            values = classifier.predict_epochs(sequence)
            given[name] = values[:, [card.classes.index(kind) for kind in self.classes]]
        return given

    def _show_probabilities(self, row: int, given: dict[str, np.ndarray], epochs: int) -> None:
        if row != self.row:
            return
        if not given:
            words = "No member of this run classifies epoch by epoch"
            self.figures.draw("probabilities", plots.nothing(words))
            return
        name, values = next(iter(given.items()))
        figure = self.figures.draw("probabilities", plots.probabilities(values, self.classes, name))
        self._epoch_marks.append(_add_mark(figure, np.arange(1, epochs + 1)))
        members = {key: np.round(table, 4).tolist() for key, table in given.items()}
        self.bridge.send(Probabilities(row=row, members=members))

    def _show_epoch(self, message: ShowEpoch) -> None:
        """Mark the player's epoch in the figures."""
        for mark, places in self._epoch_marks:
            if message.epoch < len(places):
                mark.location = float(places[message.epoch])


def _add_mark(figure: Any, places: np.ndarray) -> tuple[Span, np.ndarray]:
    """Add a vertical line to a figure, to be moved to any of these places ``(epoch,)`` on the x axis."""
    mark = Span(location=float(places[0]), dimension="height", line_color=plots.INK, line_width=1)
    figure.add_layout(mark)
    return mark, places


def _strip_png(stamps: np.ndarray) -> str:
    """Return all stamps of an object side by side as PNG in base64, each from the sky to its brightest pixel."""
    pixels = stamps.astype(np.float64)
    flat = pixels.reshape(len(pixels), -1)
    sky = np.nanmedian(flat, axis=1)[:, None, None]
    scatter = 1.4826 * np.nanmedian(np.abs(flat - sky[:, :, 0]), axis=1)[:, None, None]
    stretched = np.arcsinh((pixels - sky) / np.maximum(2 * scatter, 1e-6))
    low, high = -1.0, max(float(np.nanmax(stretched)), 3.0)
    grey = np.nan_to_num(np.clip((stretched - low) / (high - low), 0, 1)) * 255
    n, side = grey.shape[:2]
    strip = grey.astype(np.uint8).transpose(1, 0, 2).reshape(side, n * side)
    buffer = io.BytesIO()
    Image.fromarray(strip).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _tile(title: str, estimate: Estimate) -> dict[str, str]:
    if not estimate.total:
        return {"title": title, "value": "none", "note": "no object to measure it on"}
    return {
        "title": title,
        "value": f"{estimate.value:.4f}",
        "note": f"95 %: {estimate.low:.4f} to {estimate.high:.4f}",
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
