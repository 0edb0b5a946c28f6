from .app import create_app, door, serve

__all__ = [
    "create_app",
    "door",
    "serve",
]
