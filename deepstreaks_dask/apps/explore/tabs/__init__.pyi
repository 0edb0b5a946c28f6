from .comparison import CompareTab
from .decision import DecisionTab
from .drift import DriftTab
from .joint import JointTab
from .scores import ScoresTab
from .threshold_search import SearchTab

__all__ = [
    "CompareTab",
    "DecisionTab",
    "DriftTab",
    "JointTab",
    "ScoresTab",
    "SearchTab",
]
