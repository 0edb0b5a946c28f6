from .explanation_maps import (
    CAPTION,
    AttributionMap,
    ExplanationError,
    Map,
    TooManyError,
    explain,
    explanation_map,
)
from .html import chart_item, write_page
from .recovery import write_map
from .run_report import write_report
from .sequence_report import write_comparison, write_evaluation

__all__ = [
    "AttributionMap",
    "CAPTION",
    "ExplanationError",
    "Map",
    "TooManyError",
    "chart_item",
    "explain",
    "explanation_map",
    "write_comparison",
    "write_evaluation",
    "write_map",
    "write_page",
    "write_report",
]
