from .progress import Bar, progress_bar
from .storage import is_local, locate, write_text, write_whole

__all__ = [
    "Bar",
    "is_local",
    "locate",
    "progress_bar",
    "write_text",
    "write_whole",
]
