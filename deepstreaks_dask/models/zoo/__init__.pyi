from .card import KERAS_FILE, SCALINGS, Card
from .serialization import load_keras
from .store import Zoo, find_weights

__all__ = [
    "Card",
    "KERAS_FILE",
    "SCALINGS",
    "Zoo",
    "find_weights",
    "load_keras",
]
