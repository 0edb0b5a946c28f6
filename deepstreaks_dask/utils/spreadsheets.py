"""Tables as CSV that spreadsheets may open."""

from __future__ import annotations

import pandas as pd

_FORMULA_MARKS = ("=", "+", "-", "@", "\t", "\r")


def to_csv(frame: pd.DataFrame, *, index: bool = False) -> str:
    """Return a table as CSV in which no text is a formula.

    A spreadsheet computes what begins with ``=``, ``+``, ``-`` or ``@``, and so an id can run a command. An apostrophe
    before it makes it text (OWASP, "CSV Injection"). Numbers stay as they are.

    Parameters
    ----------
    frame : DataFrame
        ``(n,)`` rows with any columns.
    index : bool
        Whether the index is the first column.

    Returns
    -------
    str
        The table as CSV.

    Examples
    --------
    >>> to_csv(pd.DataFrame({"id": ["=1+2", "c1"], "dx": [-1, 2]})).split()
    ['id,dx', "'=1+2,-1", 'c1,2']
    """
    whole = frame.reset_index() if index else frame
    safe = {
        name: column.map(_as_text)
        for name, column in whole.items()
        if not (pd.api.types.is_numeric_dtype(column) or pd.api.types.is_datetime64_dtype(column))
    }
    text: str = whole.assign(**{str(name): column for name, column in safe.items()}).to_csv(
        index=False
    )
    return text


def _as_text(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_MARKS) else value
