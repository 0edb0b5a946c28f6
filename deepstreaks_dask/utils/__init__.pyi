from .html import html_facts, html_table
from .progress import Bar, progress_bar
from .storage import is_local, locate, write_text, write_whole
from .validation import STRICT, ListOf, StrictModel, describe, validate, validate_json

__all__ = [
    "Bar",
    "ListOf",
    "STRICT",
    "StrictModel",
    "describe",
    "html_facts",
    "html_table",
    "is_local",
    "locate",
    "progress_bar",
    "validate",
    "validate_json",
    "write_text",
    "write_whole",
]
