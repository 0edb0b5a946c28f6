"""Labels that people gave on Zwickyverse (Duev et al. 2019), with the pictures that they looked at.

A project's JSON names its classes, of two the negative one first, and its data sets; each of these is a folder of
pictures, and ``<data set>.<stamp>.json``, in it or beside it, says which classes people saw in which picture.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deepstreaks_dask.archive.append import CutoutBatch, Quarantined, Remark
from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.readers.folder import Folder, decode_all, leads_out
from deepstreaks_dask.readers.images import SUFFIXES, decode_file, find_polarity
from deepstreaks_dask.readers.options import DEFAULTS, ReadOptions
from deepstreaks_dask.readers.quantities import label_words
from deepstreaks_dask.readers.tables import Metadata
from deepstreaks_dask.vocabulary import label_column

PROJECTS = {
    "5b96af9c0354c9000b0aea36": "rb",
    "5b99b2c6aec3c500103a14de": "sl",
    "5be0ae7958830a0018821794": "kd",
    "5c05bbdc826480000a95c0bf": "os",
}
"""The published projects, and the family that each was for."""

_BATCH_IMAGES = 256
_MAX_JSON_BYTES = 2**27  # of a JSON file; a line of labels takes about a hundred
_MAX_PROJECTS = 1000
_NAME_PATTERN = re.compile(r"[A-Za-z0-9_][\w.-]{0,200}", re.ASCII)


@dataclass(frozen=True)
class Project:
    """A project: the family that it is for, its classes, of two the negative first, and its data sets."""

    family: str
    classes: tuple[str, ...]
    datasets: tuple[str, ...]

    def labels(self, words: Mapping[str, int]) -> dict[str, int]:
        """Return the label of each class: what its word stands for, else by its place where there are two."""
        known = label_words(self.family, words)
        found = {name: known[key] for name in self.classes if (key := name.casefold()) in known}
        if len(self.classes) == 2 and not words:
            return dict(zip(self.classes, (0, 1), strict=True))
        return found


@dataclass
class _Labels:
    """Labels of pictures by their names, and what was wrong with them."""

    seen: dict[str, dict[str, set[int]]] = field(default_factory=dict)  # picture, family
    places: dict[str, Path] = field(default_factory=dict)
    refused: list[Quarantined] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    kinds: dict[str, set[str]] = field(default_factory=dict)  # classes of projects of more than two

    def refuse(self, source: str, reason: str, detail: str) -> None:
        self.refused.append(Quarantined(source[:200], reason, detail[:200]))


class Zwickyverse:
    """Reader ``zwickyverse``: see :meth:`read`."""

    name = "zwickyverse"

    def sniff(self, path: Path) -> bool:
        """Say whether ``path`` is a project's JSON, or a folder with one."""
        return any(_read_project(file) for file in _project_files(path))

    def count(self, path: Path) -> int:
        """Give the number of labelled pictures."""
        return len(_collect(path).places)

    def read(self, path: Path, options: ReadOptions = DEFAULTS) -> Iterator[CutoutBatch]:
        """Read projects, their labels and their pictures.

        Parameters
        ----------
        path : Path
            A project's JSON, or a folder with several; data sets lie beside them. A project is one of the
            published ones by its name, or begins with its family: ``rb.json``, ``kd_2019.json``.
        options : ReadOptions, optional
            ``night``: of all cutouts. ``words``: which label each class has, for projects of more than two classes; the
            class goes to ``kind`` then. A table is refused.

        Yields
        ------
        CutoutBatch
            Every labelled picture once, with the labels of all projects. In ``quarantined`` are pictures as with the
            reader ``images``, labels of pictures that are not there, and labels on which people, or data sets,
            disagree: such a picture is taken without that label.

        Raises
        ------
        ReaderError
            If there is no project, or none of its pictures.
        """
        if options.table is not None:
            raise ReaderError("the reader zwickyverse takes its labels from its projects: no table")
        labels = _collect(path, options.words)
        if not labels.places:
            raise ReaderError(
                f"{path}: no labelled picture is there; give a folder with <project>.json and, for each "
                "of its data sets, a folder of that name"
            )
        names = sorted(labels.places)
        folder = Folder(_root(path), ReadOptions(night=options.night))
        frame = pd.DataFrame([_agreed(labels, name) for name in names])
        sources = [folder.source(labels.places[name]) for name in names]
        rows = {source: row for row, source in enumerate(sources)}
        folder.take(Metadata(frame, rows), rows)
        pictures = [labels.places[name] for name in names]
        polarity = find_polarity(pictures, folder.root, options)
        work = partial(decode_file, root=folder.root, polarity=polarity, plane=options.plane)
        if labels.refused or labels.remarks:
            empty = folder.batch(())
            empty.quarantined.extend(labels.refused)
            empty.remarks.extend(labels.remarks)
            yield empty
        for decoded in decode_all(work, pictures, _BATCH_IMAGES, options.executor, together=32):
            yield folder.batch(decoded)


READER = Zwickyverse()


def _agreed(labels: _Labels, name: str) -> dict[str, Any]:
    """Labels of a picture where all agree."""
    row: dict[str, Any] = {"id": Path(name).stem.removesuffix("_scimref"), "label_rb": np.nan}
    if len(classes := labels.kinds.get(name, set())) == 1:
        (row["kind"],) = classes
    for family, seen in labels.seen[name].items():
        if len(seen) == 1:
            (row[label_column(family)],) = seen
        else:
            labels.refuse(name, "ambiguous label", f"both classes of {family}")
    return row


def _collect(path: Path, words: Mapping[str, int] | None = None) -> _Labels:
    """Gather the labels of all projects."""
    root = _root(path)
    labels = _Labels()
    projects = [(f, project) for f in _project_files(path) if (project := _read_project(f))]
    if not projects:
        raise ReaderError(
            f"{path} holds no Zwickyverse project: give <project>.json with classes and datasets, named by a "
            "published project or beginning with rb, sl, kd or os, or the folder that holds it"
        )
    for file, project in projects:
        known = project.labels(words or {})
        if words is not None and not {0, 1} & {*known.values()}:
            named = ",".join(f"{name}=…" for name in project.classes)
            raise ReaderError(
                f"{file} has the classes {', '.join(project.classes)}: say which is 1 and which 0, like --labels {named}"
            )
        unlabelled = [name for name in project.classes if name not in known]
        labels.remarks += [
            Remark("class stands for no label", f"{file.name}: {name}") for name in unlabelled
        ]
        for dataset in project.datasets:
            _add_dataset(labels, root, file.name, project, dataset, known)
    return labels


def _add_dataset(
    labels: _Labels,
    root: Path,
    source: str,
    project: Project,
    dataset: str,
    known: Mapping[str, int],
) -> None:
    if not _NAME_PATTERN.fullmatch(dataset):
        labels.refuse(f"{source}: {dataset}", "unsafe name", "no data set is named so")
        return
    folder = root / dataset
    files = [*folder.glob(f"{dataset}.*.json"), *root.glob(f"{dataset}.*.json")]
    files = [f for f in files if not leads_out(f, root.resolve())]
    if not files:
        labels.refuse(f"{source}: {dataset}", "missing", f"there is no {dataset}.<stamp>.json")
        return
    newest = max(files, key=lambda f: _natural(f.name))
    said = _read_json(newest)
    if not isinstance(said, dict):
        labels.refuse(newest.name, "damaged", "it cannot be read as an object in JSON")
        return
    for name, classes in said.items():
        if not _NAME_PATTERN.fullmatch(name) or not name.lower().endswith(SUFFIXES):
            labels.refuse(f"{newest.name}: {name}", "unsafe name", "no picture is named so")
        elif not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
            labels.refuse(f"{newest.name}: {name}", "damaged", "its classes are no list of names")
        elif unknown := set(classes) - set(project.classes):
            detail = f"{sorted(unknown)[0]!r} is no class of {source}"
            labels.refuse(f"{newest.name}: {name}", "unknown class", detail)
        elif not (folder / name).is_file():
            labels.refuse(f"{newest.name}: {name}", "missing", "labelled, but not there")
        else:
            labels.places.setdefault(name, folder / name)
            seen = labels.seen.setdefault(name, {})
            if given := {known[one] for one in classes if known.get(one, -1) >= 0}:
                seen.setdefault(project.family, set()).update(given)
            if len(project.classes) > 2:
                labels.kinds.setdefault(name, set()).update(classes)


def _root(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _project_files(path: Path) -> list[Path]:
    files = [path] if path.is_file() else sorted(path.glob("*.json"))
    return [f for f in files if f.suffix == ".json" and f.is_file()][:_MAX_PROJECTS]


def _read_project(file: Path) -> Project | None:
    """Read a project, None if the file is none."""
    family = PROJECTS.get(file.stem) or re.split(r"[_.-]", file.stem)[0]
    if family not in PROJECTS.values():
        return None
    match _read_json(file):
        case {"classes": list(classes), "datasets": list(datasets)} if (
            all(isinstance(one, str) for one in [*classes, *datasets])
            and len(set(classes)) == len(classes) >= 2
        ):
            return Project(family, tuple(classes), tuple(dict.fromkeys(datasets)))
    return None


def _read_json(file: Path) -> Any:
    """Read JSON; None if it is none, or too large or too deep to be what it should."""
    try:
        if file.stat().st_size > _MAX_JSON_BYTES:
            return None
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that takes numbers in a name as numbers."""
    return [(int(part) if part.isdecimal() else -1, part) for part in re.split(r"(\d{1,18})", name)]
