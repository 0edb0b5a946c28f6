from .addresses import is_loopback
from .auth import CSRF_HEADER, SESSION_COOKIE, access_routes, csrf_of
from .campaign_api import campaign_names, campaign_routes, campaign_state, campaign_status
from .context import Site, site_of
from .options import Listener, SiteOptions
from .session_api import session_routes
from .site import add_guard, listen, make_app, make_loopback_app, run_app
from .streak_api import streak_routes
from .token_api import token_routes
from .verdict_api import verdict_routes
from .vocabulary_api import VocabularyOut, vocabulary, vocabulary_routes

__all__ = [
    "CSRF_HEADER",
    "Listener",
    "SESSION_COOKIE",
    "Site",
    "SiteOptions",
    "VocabularyOut",
    "access_routes",
    "add_guard",
    "campaign_names",
    "campaign_routes",
    "campaign_state",
    "campaign_status",
    "csrf_of",
    "is_loopback",
    "listen",
    "make_app",
    "make_loopback_app",
    "run_app",
    "session_routes",
    "site_of",
    "streak_routes",
    "token_routes",
    "verdict_routes",
    "vocabulary",
    "vocabulary_routes",
]
