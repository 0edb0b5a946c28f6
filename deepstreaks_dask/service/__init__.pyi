from .depots import open_depot, read_credentials
from .service import Scorer, Settings, nights_between, watch
from .state import Ledger

__all__ = [
    "Ledger",
    "Scorer",
    "Settings",
    "nights_between",
    "open_depot",
    "read_credentials",
    "watch",
]
