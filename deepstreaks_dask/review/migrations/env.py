"""What Alembic runs: the scripts, on the connection it was given, or on ``alembic -x database=URL``'s."""

import sqlalchemy as sa
from alembic import context

from deepstreaks_dask.review.schema import METADATA


def _run(connection: sa.Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=METADATA,
        compare_type=True,
        render_as_batch=connection.dialect.name == "sqlite",  # which cannot alter a column
    )
    with context.begin_transaction():
        context.run_migrations()


if (given := context.config.attributes.get("connection")) is not None:
    _run(given)
else:
    with sa.create_engine(context.get_x_argument(as_dictionary=True)["database"]).begin() as opened:
        _run(opened)
