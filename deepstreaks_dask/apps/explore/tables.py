"""Tables as messages hold them."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd


def table_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table of any columns as dictionaries; NaN becomes None."""
    return [
        {
            str(key): None if isinstance(value, float) and math.isnan(value) else value
            for key, value in row.items()
        }
        for row in table.to_dict("records")
    ]
