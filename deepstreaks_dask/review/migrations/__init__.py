"""The review database's schema, step by step: a script a change, in ``versions/``, run by Alembic.

A database is brought up to date when it is opened, in one transaction: it is as it was, or as it should be.
"""

from __future__ import annotations

import sqlalchemy as sa

from deepstreaks_dask.errors import DeepStreaksError

_BEFORE = "0001"  # what databases had that were made before there were scripts


class SchemaError(DeepStreaksError):
    """A review database was made by a newer version of this package."""


def upgrade(connection: sa.Connection) -> None:
    """Bring a database up to date; an empty one gets its tables.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        In a transaction that keeps others out. What is changed is changed when it is committed.

    Raises
    ------
    SchemaError
        If the database is newer than this package.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "deepstreaks_dask.review:migrations")
    scripts = ScriptDirectory.from_config(config)
    now = MigrationContext.configure(connection).get_current_revision()
    if now == scripts.get_current_head():
        return
    if now is None and sa.inspect(connection).has_table("acts"):
        command.stamp(config, _BEFORE)
    elif now is not None and now not in {one.revision for one in scripts.walk_revisions()}:
        raise SchemaError(
            f"the review database has schema {now}, which this package does not know: "
            "use the newer deepstreaks_dask that made it, or another database"
        )
    command.upgrade(config, "head")
