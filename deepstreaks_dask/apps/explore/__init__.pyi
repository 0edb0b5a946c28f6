from .messages import one_of, plain, selection, whole
from .page import Explorer

__all__ = [
    "Explorer",
    "one_of",
    "plain",
    "selection",
    "whole",
]
