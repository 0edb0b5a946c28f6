"""Labels that the names of folders stand for: ``real`` and ``bogus``, ``kd/1``, or words of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from deepstreaks_dask.errors import ReaderError
from deepstreaks_dask.readers.quantities import label_words
from deepstreaks_dask.vocabulary import FAMILIES, LABEL_VALUES, label_column


def labels_of(parts: Sequence[str], words: Mapping[str, int]) -> dict[str, int]:
    """Return the labels that folders stand for.

    Parameters
    ----------
    parts : sequence of str
        Names of folders, the outermost first; inner ones go before outer ones.
    words : mapping of str to int
        Labels by word, or by ``family:word``.

    Returns
    -------
    dict of str to int
        By column. A word of one family only, such as ``ditch``, labels that family; other words label the family whose
        name is that of a folder around them, by default ``rb``.

    Examples
    --------
    >>> labels_of(["20260101", "bogus"], {}), labels_of(["kd", "1"], {}), labels_of(["moths"], {"moths": 0})
    ({'label_rb': 0}, {'label_kd': 1}, {'label_rb': 0})
    """
    family, labels = "rb", {}
    for part in (part.strip().casefold() for part in parts):
        if part in FAMILIES:
            family = part
            continue
        own = next((f for f in FAMILIES if part in _own_words(f, words)), family)
        if (label := label_words(own, words).get(part)) is not None:
            labels[label_column(own)] = label
    return labels


def _own_words(family: str, words: Mapping[str, int]) -> set[str]:
    """Words that no other family has."""
    given = {w.partition(":")[2].casefold() for w in words if w.startswith(f"{family}:")}
    return given | {*LABEL_VALUES[family]} - {"not"}


def check_folders(folders: Iterable[Sequence[str]], words: Mapping[str, int], where: str) -> None:
    """Check that one of the folders stands for a label.

    Parameters
    ----------
    folders : iterable of sequence of str
        Names of the folders around each file.
    words : mapping of str to int
        As :func:`labels_of` takes them.
    where : str
        What was given, which the error names.

    Raises
    ------
    ReaderError
        If none does.
    """
    names = list(dict.fromkeys(tuple(parts) for parts in folders))
    if any(labels_of(parts, words) for parts in names):
        return
    seen = ", ".join(repr(parts[-1]) for parts in names[:5] if parts) or "nothing"
    raise ReaderError(
        f"{where}: no folder's name stands for a label; they are named {seen}: say what for, like "
        "--labels asteroid=1,bogus=0"
    )
