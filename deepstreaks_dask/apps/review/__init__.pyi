from .app import create_app, login_link, serve

__all__ = [
    "create_app",
    "login_link",
    "serve",
]
