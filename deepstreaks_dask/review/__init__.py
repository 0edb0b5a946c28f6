"""Candidates before people's eyes: accounts, verdicts, the log, and the catalogue they judge.

Everything is in one database, SQLite by default and PostgreSQL by URL.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
