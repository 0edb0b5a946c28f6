"""Open the review database from a command."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from deepstreaks_dask.errors import DeepStreaksError

if TYPE_CHECKING:
    import pandas as pd

    from deepstreaks_dask.review.database import Review


def open_review(archive: str | None, database: str | None) -> Any:
    """Open the review database of an archive, or the one at a URL."""
    from deepstreaks_dask.archive.dataset import open_archive
    from deepstreaks_dask.review.database import Review, default_url

    check_database_url(database)
    if archive is None and database is None:
        raise DeepStreaksError("whose users? Give --archive or --database")
    if database is None:
        assert archive is not None
        open_archive(archive)  # a mistyped path must not become a new database
        database = default_url(archive)
    return Review(database)


def check_database_url(database: str | None) -> None:
    """Refuse a password in a command: everybody on the machine can read commands while they run."""
    if database is not None and re.match(r"[^:/]+://[^/@]*:[^/@]+@", database):
        raise DeepStreaksError(
            "--database holds a password, which everybody on this machine could read: leave it out, and write it into a "
            "file that PGPASSFILE names (host:port:database:user:password)"
        )


def reviewed_cutouts(archive: str, database: str | None) -> list[str]:
    """Name the cutouts that somebody has judged, where there is a review."""
    review = _existing_review(archive, database)
    if review is None:
        return []
    from deepstreaks_dask.review.database import archive_key

    return [one.cutout for one in review.verdicts.current(archive_key(archive))]


def reviewed_labels(archive: str, database: str | None) -> pd.DataFrame:
    """Give what reviewers say as labels; somebody must have said something."""
    labels = None
    if (review := _existing_review(archive, database)) is not None:
        from deepstreaks_dask.review.database import archive_key

        labels = review.verdicts.labels(archive_key(archive))
    if labels is None or labels.empty:
        raise DeepStreaksError(
            f"nobody has judged cutouts of {archive}: 'deepstreaks dashboard {archive} --app review' is for that; "
            "where verdicts are elsewhere, name their --database"
        )
    return labels


def withdraw_verdicts(archive: str, database: str | None, cutouts: list[str]) -> int:
    """Undo all verdicts on cutouts, where there is a review, and return how many acts were undone."""
    review = _existing_review(archive, database)
    if review is None:
        return 0
    from deepstreaks_dask.review.database import archive_key

    undone: int = review.verdicts.withdraw(archive_key(archive), cutouts)
    return undone


def _existing_review(archive: str, database: str | None) -> Review | None:
    """Open the review of an archive, unless there is none: to ask must not make one."""
    from deepstreaks_dask.utils.storage import is_local, locate

    check_database_url(database)
    if database is None:
        fs, root = locate(archive)
        if not is_local(fs) or not fs.exists(f"{root}.review.sqlite"):
            return None
    from deepstreaks_dask.review.database import Review, default_url  # an extra, not needed before

    return Review(database or default_url(archive))
