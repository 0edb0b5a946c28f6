from .comparison import CompareTab, DriftTab
from .decision import DecisionTab
from .gallery import Galleries
from .joint import JointTab
from .scores import ScoresTab
from .threshold_search import SearchTab

__all__ = [
    "CompareTab",
    "DecisionTab",
    "DriftTab",
    "Galleries",
    "JointTab",
    "ScoresTab",
    "SearchTab",
]
