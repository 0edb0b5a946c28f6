"""The review of an archive: accounts and verdicts in one database.

The database is a SQLite file by default, and PostgreSQL by URL.
"""

from __future__ import annotations

import os

from deepstreaks_dask.review.accounts import Accounts
from deepstreaks_dask.review.people import ReviewError
from deepstreaks_dask.review.transactions import Database, sqlite_url
from deepstreaks_dask.review.verdicts import Verdicts
from deepstreaks_dask.utils.storage import is_local, locate


class Review:
    """A review: its accounts and its verdicts, in one database.

    Parameters
    ----------
    url : str
        SQLAlchemy's URL of the database: see :class:`~deepstreaks_dask.review.transactions.Database`.

    Attributes
    ----------
    database : Database
        Transactions, schema and audit log.
    accounts : Accounts
        Users, sessions and tokens.
    verdicts : Verdicts
        What reviewers say of cutouts.

    Raises
    ------
    ReviewError
        If the database cannot be opened.
    SchemaError
        If a newer version of this package made the database.
    """

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        self.accounts = Accounts(self.database)
        self.verdicts = Verdicts(self.database)

    def close(self) -> None:
        """Close all connections to the database."""
        self.database.close()


def default_url(archive: str | os.PathLike[str]) -> str:
    """Return the URL of the database that an archive has by default: a SQLite file beside the archive.

    Parameters
    ----------
    archive : str or path
        Path or URL.

    Returns
    -------
    str
        SQLAlchemy's URL.

    Raises
    ------
    ReviewError
        If the archive is not on a local disk.
    """
    fs, root = locate(archive)
    if not is_local(fs):
        raise ReviewError(f"{os.fspath(archive)} is not on this machine: name a --database")
    return sqlite_url(f"{root}.review.sqlite")


def archive_key(archive: str | os.PathLike[str]) -> str:
    """Return the name under which a database keeps an archive's verdicts: the archive's full path or URL."""
    fs, root = locate(archive)
    return str(fs.unstrip_protocol(root))
