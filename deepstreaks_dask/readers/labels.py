"""Labels that are given beside a table: columns of it, values by id, and words that stand for values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from deepstreaks_dask.archive.append import CutoutBatch
from deepstreaks_dask.errors import ReaderError, did_you_mean
from deepstreaks_dask.vocabulary import FAMILIES, label_column

_LABEL_VALUES = (-1, 0, 1)


@dataclass(frozen=True)
class Labels:
    """Labels that are given beside a table.

    Attributes
    ----------
    columns : dict of str to str
        Column of the archive by column of the table.
    by_id : dict of str to mapping
        Labels of cutouts, 1, 0 or -1, by family and id.
    words : dict of str to int
        Label, 1, 0 or -1, by the word that stands for it.
    """

    columns: dict[str, str]
    by_id: dict[str, Mapping[str, int]]
    words: dict[str, int]

    @classmethod
    def parse(cls, given: Mapping[str, str | int | Mapping[str, int]] | None) -> Labels:
        """Check labels as :func:`ingest` takes them.

        Parameters
        ----------
        given : mapping of str to (str, int or mapping), optional
            Column of a table, or labels by id, for each family; label for each word.

        Returns
        -------
        Labels
            Checked.

        Raises
        ------
        ReaderError
            If a family has no labels in an archive, or a label is not 1, 0 or -1.
        """
        columns: dict[str, str] = {}
        by_id: dict[str, Mapping[str, int]] = {}
        words: dict[str, int] = {}
        for family, labels in (given or {}).items():
            if isinstance(labels, int):
                words[family] = _checked_word(family, labels)
                continue
            if family not in FAMILIES:
                hint = did_you_mean(family, FAMILIES)
                raise ReaderError(
                    f"labels of {family!r}: {hint}an archive has those of {', '.join(FAMILIES)}"
                )
            if isinstance(labels, str):
                columns[labels] = label_column(family)
                continue
            wrong = next((one for one in labels.items() if one[1] not in _LABEL_VALUES), None)
            if wrong:
                raise ReaderError(
                    f"label {wrong[1]!r} of {family!r} for {wrong[0]!r}: give 1, 0, or -1 for unknown"
                )
            by_id[family] = labels
        return cls(columns, by_id, words)

    def overlay(self, batches: Iterator[CutoutBatch]) -> Iterator[CutoutBatch]:
        """Put the labels by id into batches.

        Parameters
        ----------
        batches : iterator of CutoutBatch
            As a reader gives them.

        Yields
        ------
        CutoutBatch
            The same batches with their labels.

        Raises
        ------
        ReaderError
            If no cutout has an id that labels of a family are given for.
        """
        matched = dict.fromkeys(self.by_id, 0)
        last = ""
        for batch in batches:
            ids = [str(name) for name in batch.columns.get("id", ())]
            last = ids[-1] if ids else last
            for family, labels in self.by_id.items():
                known = np.array([name in labels for name in ids], bool)
                values = np.array([labels.get(name, -1) for name in ids], np.int8)
                before = batch.columns.get(label_column(family), np.full(len(ids), -1, np.int8))
                batch.columns[label_column(family)] = np.where(known, values, before).astype(
                    np.int8
                )
                matched[family] += int(known.sum())
            yield batch
        for family, count in matched.items():
            if not count and self.by_id[family]:
                raise ReaderError(
                    f"labels of {family!r} match no cutout: they are named like "
                    f"{next(iter(self.by_id[family]))!r}, the cutouts like {last!r}"
                )


def as_label(text: str) -> str | int:
    """Return a label that was typed as a number, and any other text, such as a column's name, as it is."""
    return int(text) if re.fullmatch(r"[+-]?\d{1,9}", text, re.ASCII) else text


def _checked_word(word: str, label: int) -> int:
    """Return the label of a word if it is one."""
    family, colon, _ = word.partition(":")
    if colon and family not in FAMILIES:
        hint = did_you_mean(family, FAMILIES)
        raise ReaderError(f"word {word!r}: {hint}there are the families {', '.join(FAMILIES)}")
    if label not in _LABEL_VALUES:
        raise ReaderError(f"label {label!r} of word {word!r}: give 1, 0, or -1 for unknown")
    return int(label)
