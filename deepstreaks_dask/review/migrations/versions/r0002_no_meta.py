"""Alembic's own table says which schema this is."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Drop the table that said so before."""
    op.drop_table("meta")
