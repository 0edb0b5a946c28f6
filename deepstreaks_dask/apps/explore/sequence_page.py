"""The page of an archive of sequences: confusion, recall, and a player of single objects."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import panel as pn
import xarray as xr
from bokeh.models import Span
from PIL import Image

from deepstreaks_dask import plots
from deepstreaks_dask.apps import bridge as style
from deepstreaks_dask.apps.explore.messages import one_of, whole
from deepstreaks_dask.archive.dataset import open_archive
from deepstreaks_dask.archive.provenance import begins_simulated
from deepstreaks_dask.archive.sequences import Sequences, read_objects
from deepstreaks_dask.errors import DeepStreaksError
from deepstreaks_dask.evaluation.metrics import Estimate
from deepstreaks_dask.evaluation.sequence_metrics import (
    EvaluationError,
    SequenceEvaluation,
    evaluate_sequences,
)
from deepstreaks_dask.photometry.core import Photometry
from deepstreaks_dask.scoring.runs import list_runs, open_run

_MAX_LISTED_OBJECTS = 300  # objects in the list
_MAX_FOLLOWED_OBJECTS = 256  # objects that are followed epoch by epoch
_ANY_CLASS = "*"


class SequenceExplorer:
    """One person's look at a run of sequences.

    Parameters
    ----------
    archive, run : str
        Path or URL, and the run's name.
    zoo : str, optional
        Where its networks are, to follow its objects epoch by epoch; the shipped one by default.

    Attributes
    ----------
    scores, evaluation
        The run, and what it reaches on objects whose class is known, None without any; there once they are read.
    member : str
        Whose classes are shown.
    row : int
        The object in the player; -1 for none.
    """

    def __init__(self, archive: str, run: str, zoo: str | None = None) -> None:
        self.archive, self.zoo = archive, zoo
        dataset = open_archive(archive, cache=True)
        self.objects = dataset.sizes["object"]
        self.simulated = begins_simulated(dataset)
        self.runs = list_runs(archive)
        if not self.runs:
            raise DeepStreaksError(
                f"{archive} has no scores to explore: score it first with 'deepstreaks sequences score {archive}'"
            )
        self.run = run if run in self.runs else self.runs[0]
        self.bridge = style.Bridge(self._receive)
        keys = {"confusion": 400, "epochs": 320, "curve": 320, "probabilities": 320}
        self.places = {key: style.place(height) for key, height in keys.items()}
        self.figures: dict[str, Any] = {}
        self.spans: list[tuple[Span, np.ndarray]] = []
        self.dark = False
        self.row, self.member = -1, ""
        self._handlers: dict[str, Callable[[dict[str, Any]], None]] = {
            "theme": self._theme,
            "member": self._choose_member,
            "list": self._list,
            "object": self._choose_object,
            "at": self._move,
            "follow": self._follow,
        }

    def page(self) -> pn.Template:
        """Lay the page out; what it shows is loaded once it is open."""
        return style.page(
            "sequences",
            self.bridge,
            self.places,
            app="explore",
            heading=self.archive.rstrip("/").rsplit("/", 1)[-1],
            runs=self.runs,
            run=self.run,
            objects=self.objects,
            simulated=self.simulated,
            followed=_MAX_FOLLOWED_OBJECTS,
        )

    def _receive(self, message: dict[str, Any]) -> None:
        do = message.get("do")
        if do == "hello":
            self.dark = message.get("dark") is True
            self.bridge.later(self._load, self._begin)
            return
        handler = self._handlers.get(str(do))
        if handler is not None and hasattr(self, "scores"):
            handler(message)

    def _load(self) -> tuple[xr.Dataset, SequenceEvaluation | None]:
        scores = open_run(self.archive, self.run, cache=True)
        try:
            return scores, evaluate_sequences(scores)
        except EvaluationError:  # no object has a class: there are players still
            return scores, None

    def _begin(self, loaded: tuple[xr.Dataset, SequenceEvaluation | None]) -> None:
        self.scores, self.evaluation = loaded
        self.classes = [str(name) for name in self.scores["class"].values]
        self.members = [str(name) for name in self.scores["member"].values]
        self.kinds = self.scores["kind"].values.astype(object).astype(str)
        self.member = self.members[0]
        self.bridge.send("ready", members=self.members, classes=self.classes)
        self._draw("epochs", plots.nothing("Nothing is followed yet"))
        self._show_member()

    def _theme(self, message: dict[str, Any]) -> None:
        self.dark = message.get("dark") is True
        for drawn in self.figures.values():
            style.recolour(drawn, self.dark)

    def _draw(self, key: str, element: Any) -> Any:
        self.figures[key] = style.figure(element, self.dark)
        style.put(self.places[key], self.figures[key])
        return self.figures[key]

    # Members and classes

    def _choose_member(self, message: dict[str, Any]) -> None:
        self.member = one_of(message.get("name"), self.members)
        self._show_member()

    def _show_member(self) -> None:
        column = self.members.index(self.member)
        if self.evaluation is None:
            self._draw("confusion", plots.nothing("No object has a class: nothing to measure"))
            self.bridge.send("member", name=self.member, tiles=[], classes=[])
        else:
            figures = self.evaluation.members[column]
            matrix = plots.class_confusion(
                figures.matrix, self.classes, f"Confusion of {self.member}"
            )
            self._draw("confusion", matrix)
            rows = figures.table.astype(object).where(figures.table.notna(), None)
            self.bridge.send(
                "member",
                name=self.member,
                tiles=[
                    _tile("Average recall", figures.recall),
                    _tile("Average F1", figures.f1),
                    _tile("Accuracy", figures.accuracy),
                ],
                classes=rows.to_dict("records"),
            )
        self._list({"truth": _ANY_CLASS, "taken": _ANY_CLASS})

    def _list(self, message: dict[str, Any]) -> None:
        """List objects of a class that the member took for a class, the surest first."""
        known = (_ANY_CLASS, "", *self.classes)
        truth, taken = (one_of(message.get(name), known) for name in ("truth", "taken"))
        values = self.scores["scores"].values[:, self.members.index(self.member)]
        scored = np.isfinite(values).all(axis=1)
        best = np.where(scored, np.nan_to_num(values).argmax(axis=1), -1)
        chosen = np.ones(len(values), bool)
        if truth != _ANY_CLASS:
            chosen &= self.kinds == truth
        if taken != _ANY_CLASS:
            chosen &= best == (self.classes.index(taken) if taken else -1)
        rows = np.flatnonzero(chosen)
        sure = np.where(scored, np.nan_to_num(values).max(axis=1), 0)
        rows = rows[np.argsort(-sure[rows], kind="stable")]
        listed = [
            {
                "row": int(row),
                "id": str(self.scores["id"].values[row]),
                "kind": self.kinds[row],
                "taken": self.classes[best[row]] if best[row] >= 0 else "",
                "sure": float(sure[row]),
            }
            for row in rows[:_MAX_LISTED_OBJECTS]
        ]
        self.bridge.send("list", objects=listed, total=len(rows))

    def _follow(self, message: dict[str, Any]) -> None:
        """Let members look at objects epoch by epoch, on another thread: networks are loaded for it."""

        def work() -> Any:
            from deepstreaks_dask.evaluation.epoch_by_epoch import follow

            return follow(self.scores, objects=_MAX_FOLLOWED_OBJECTS, zoos=(self.zoo, None))

        def show(curves: Any) -> None:
            if not curves:
                element = plots.nothing("No member of this run looks epoch by epoch")
            else:
                element = plots.estimates(
                    {
                        name: table[["epochs"]].assign(value=table["recall"])
                        for name, table in curves.items()
                    }
                    | {f"{name}, accuracy": table for name, table in curves.items()},
                    "epochs",
                    title="Average recall, and accuracy with its 95 % band",
                    xlabel="epochs seen (objects that have as many)",
                    ylabel="share",
                )
            self._draw("epochs", element)
            self.bridge.send("followed")

        self.bridge.later(work, show, long=True)

    # The player

    def _choose_object(self, message: dict[str, Any]) -> None:
        row = whole(message.get("row"))
        if not 0 <= row < self.objects:
            raise DeepStreaksError(f"there is no object {row}")
        self.row = row
        self.bridge.later(lambda: self._read(row), self._show_object)

    def _read(self, row: int) -> tuple[int, Sequences, Photometry]:
        from deepstreaks_dask.photometry.features import measure_objects

        found = read_objects(self.scores.attrs["url"], row, row + 1)
        if found.sequences is None:
            why = found.failures[0][2] if found.failures else "nothing of it can be read"
            raise DeepStreaksError(f"{self.scores['id'].values[row]}: {why}")
        return row, found.sequences, measure_objects(found.sequences)

    def _show_object(self, found: tuple[int, Sequences, Photometry]) -> None:
        row, sequence, measured = found
        if row != self.row:
            return  # another was chosen meanwhile
        mjd = np.asarray(sequence.epochs["mjd"], float)
        days, flux = mjd - mjd[0], measured.psf
        band = np.asarray(sequence.epochs["band"]).astype(object).astype(str)
        drawn = self._draw("curve", plots.light_curve(days, flux.flux, flux.flux_error, band))
        self.spans = [_mark(drawn, days)]
        values = self.scores["scores"].values[row]
        self.bridge.send(
            "object",
            row=row,
            id=str(self.scores["id"].values[row]),
            kind=self.kinds[row],
            strip=_strip(sequence.stamps),
            side=sequence.stamps.shape[1],
            epochs=[
                {
                    "mjd": float(mjd[k]),
                    "band": band[k],
                    "flux": _number(flux.flux[k]),
                    "error": _number(flux.flux_error[k]),
                    "magnitude": _number(flux.magnitude[k]),
                }
                for k in range(len(mjd))
            ],
            scores=[
                {"member": name, "values": [_number(v) for v in values[k]]}
                for k, name in enumerate(self.members)
            ],
        )
        style.put(self.places["probabilities"], style.figure(plots.nothing("Asking"), self.dark))
        self.bridge.later(
            lambda: self._ask(row, sequence), lambda given: self._show_asked(given, days), long=True
        )

    def _ask(self, row: int, sequence: Sequences) -> tuple[int, dict[str, np.ndarray]]:
        """Give the probabilities after each epoch of those members that look so, ``(epoch, class)``."""
        from deepstreaks_dask.evaluation.epoch_by_epoch import online_members

        given = {}
        for name, (store, card) in online_members(self.scores, (self.zoo, None)).items():
            classifier: Any = store.load_classifier(card.ref)
            values = classifier.predict_epochs(sequence)
            given[name] = values[:, [card.classes.index(kind) for kind in self.classes]]
        return row, given

    def _show_asked(self, asked: tuple[int, dict[str, np.ndarray]], days: np.ndarray) -> None:
        row, given = asked
        if row != self.row:
            return
        if not given:
            element = plots.nothing("No member of this run looks epoch by epoch")
            self._draw("probabilities", element)
            return
        name, values = next(iter(given.items()))
        places = np.arange(1, len(days) + 1)
        drawn = self._draw("probabilities", plots.probabilities(values, self.classes, name))
        self.spans.append(_mark(drawn, places))
        self.bridge.send(
            "probabilities",
            row=row,
            members={key: np.round(table, 4).tolist() for key, table in given.items()},
        )

    def _move(self, message: dict[str, Any]) -> None:
        """Follow the player's epoch in the pictures."""
        epoch = whole(message.get("epoch"))
        for span, places in self.spans:
            if 0 <= epoch < len(places):
                span.location = float(places[epoch])


def _mark(drawn: Any, places: np.ndarray) -> tuple[Span, np.ndarray]:
    """Put a line into a picture that can be moved to any of these places."""
    span = Span(location=float(places[0]), dimension="height", line_color=plots.INK, line_width=1)
    drawn.add_layout(span)
    return span, places


def _strip(stamps: np.ndarray) -> str:
    """Draw all stamps of an object side by side, each from the sky to its brightest, as a PNG in base64."""
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
        return {"title": title, "value": "none", "note": "nothing to measure it on"}
    return {
        "title": title,
        "value": f"{estimate.value:.4f}",
        "note": f"95 %: {estimate.low:.4f} to {estimate.high:.4f}",
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
