from .accounts import MAX_TOKENS, SESSION_IDLE_TIME, SESSION_LIFETIME, Accounts
from .catalogue import EXPOSURE_TIME, Catalogue, newest_commit
from .database import Review, archive_key, default_url
from .ids import Ids
from .passwords import MAX_PASSWORD_LENGTH, MIN_PASSWORD_LENGTH
from .people import Person, RefusedError, ReviewError, WaitError
from .schema import MAX_NOTE_LENGTH, METADATA
from .transactions import Database
from .verdicts import Verdict, Verdicts

__all__ = [
    "Accounts",
    "Catalogue",
    "Database",
    "EXPOSURE_TIME",
    "Ids",
    "MAX_NOTE_LENGTH",
    "MAX_PASSWORD_LENGTH",
    "MAX_TOKENS",
    "METADATA",
    "MIN_PASSWORD_LENGTH",
    "Person",
    "RefusedError",
    "Review",
    "ReviewError",
    "SESSION_IDLE_TIME",
    "SESSION_LIFETIME",
    "Verdict",
    "Verdicts",
    "WaitError",
    "archive_key",
    "default_url",
    "newest_commit",
]
