"""Small HTML tables that notebooks show for an object; they load nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

_CELL_STYLE = "text-align: left; padding: 0.2em 0.9em 0.2em 0; font-variant-numeric: tabular-nums"
_CAPTION_STYLE = "caption-side: top; text-align: left; font-weight: 600; padding: 0.3em 0"
_NOTE_STYLE = "margin: 0.3em 0 0.6em; max-width: 60em; opacity: 0.75"
_MAX_ROWS = 20  # of a table; the others are counted


def html_table(
    caption: str,
    rows: Iterable[Sequence[Any]],
    *,
    header: Sequence[str] = (),
    note: str = "",
) -> str:
    """Return a table as HTML in which every text is escaped.

    Parameters
    ----------
    caption : str
        Title above the table.
    rows : iterable of sequence
        Cells of each row; the first cell of a row is its heading. Floats are shown with four significant digits, NaN as
        "not known".
    header : sequence of str
        Titles of the columns; none by default.
    note : str
        Sentence below the table.

    Returns
    -------
    str
        One ``<div>``. Rows after the twentieth are counted, not shown.
    """
    every = [list(row) for row in rows]
    head = "".join(f'<th style="{_CELL_STYLE}">{_cell(title)}</th>' for title in header)
    body = "".join(_row(row) for row in every[:_MAX_ROWS])
    parts = [
        f'<table style="border-collapse: collapse"><caption style="{_CAPTION_STYLE}">{_cell(caption)}</caption>',
        f"<thead><tr>{head}</tr></thead>" if head else "",
        f"<tbody>{body}</tbody></table>",
    ]
    notes = [f"{len(every) - _MAX_ROWS:,} more rows"] if len(every) > _MAX_ROWS else []
    notes += [note] if note else []
    parts += [f'<p style="{_NOTE_STYLE}">{_cell(text)}</p>' for text in notes]
    return f"<div>{''.join(parts)}</div>"


def html_facts(caption: str, facts: Mapping[str, Any], *, note: str = "") -> str:
    """Return a table of names and values as HTML.

    Parameters
    ----------
    caption : str
        Title above the table.
    facts : mapping of str to object
        Value by its name, a row each.
    note : str
        Sentence below the table.

    Returns
    -------
    str
        As :func:`html_table` gives it.
    """
    return html_table(caption, facts.items(), note=note)


def _row(cells: list[Any]) -> str:
    first, *others = cells
    values = "".join(f'<td style="{_CELL_STYLE}">{_cell(value)}</td>' for value in others)
    return f'<tr><th scope="row" style="{_CELL_STYLE}">{_cell(first)}</th>{values}</tr>'


def _cell(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        return "not known" if np.isnan(value) else f"{value:.4g}"
    return escape(str(value))
