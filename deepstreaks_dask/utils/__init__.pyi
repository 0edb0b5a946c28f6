from .html import html_facts, html_table
from .progress import Bar, progress_bar
from .storage import is_local, locate, write_text, write_whole
from .validation import ListOf, StrictModel, describe, validate

__all__ = [
    "Bar",
    "ListOf",
    "StrictModel",
    "describe",
    "html_facts",
    "html_table",
    "is_local",
    "locate",
    "progress_bar",
    "validate",
    "write_text",
    "write_whole",
]
