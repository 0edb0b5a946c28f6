from .accounts import ROLES, Person, RefusedError, ReviewError, Role, WaitError
from .catalogue import EXPOSURE_TIME, Catalogue, Ids, newest_commit
from .database import Review, archive_key, default_url
from .schema import MAX_NOTE_LENGTH, METADATA
from .verdicts import Verdict

__all__ = [
    "Catalogue",
    "EXPOSURE_TIME",
    "Ids",
    "MAX_NOTE_LENGTH",
    "METADATA",
    "Person",
    "ROLES",
    "RefusedError",
    "Review",
    "ReviewError",
    "Role",
    "Verdict",
    "WaitError",
    "archive_key",
    "default_url",
    "newest_commit",
]
