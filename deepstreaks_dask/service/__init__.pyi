from .channels import Channel, Mail, Webhook
from .credentials import read_credentials
from .depots import Limits, open_depot
from .nights import Nights, nights_between
from .scorer import Scorer
from .service import Settings, watch
from .state import Ledger

__all__ = [
    "Channel",
    "Ledger",
    "Limits",
    "Mail",
    "Nights",
    "Scorer",
    "Settings",
    "Webhook",
    "nights_between",
    "open_depot",
    "read_credentials",
    "watch",
]
