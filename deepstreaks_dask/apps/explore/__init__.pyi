from .launch import ExploreApp, explore
from .messages import SCHEMA
from .page import CutoutPage
from .sequence_page import SequencePage
from .session import Distribution, ScoredArchive, Session

__all__ = [
    "SCHEMA",
    "CutoutPage",
    "Distribution",
    "ExploreApp",
    "ScoredArchive",
    "SequencePage",
    "Session",
    "explore",
]
