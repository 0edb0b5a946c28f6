from .auth import CSRF_HEADER, SESSION_COOKIE, access, csrf_of
from .campaign_api import campaigns, known, look, state_of
from .context import Site, site_of
from .site import close, is_loopback, listen, make_app, own_machine, run_app

__all__ = [
    "CSRF_HEADER",
    "SESSION_COOKIE",
    "Site",
    "access",
    "campaigns",
    "close",
    "csrf_of",
    "is_loopback",
    "known",
    "listen",
    "look",
    "make_app",
    "own_machine",
    "run_app",
    "site_of",
    "state_of",
]
