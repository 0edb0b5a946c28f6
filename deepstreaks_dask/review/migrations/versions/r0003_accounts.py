"""Tokens expire and have scopes, sessions can be listed, and users may have one-time passwords."""

import time

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_TOKEN_SECONDS = 90 * 86400  # that tokens go on which were made before they expired


def upgrade() -> None:
    """Add the columns and tables; open sessions end, since nothing is known of where they were opened."""
    _sessions()
    expires = repr(time.time() + _TOKEN_SECONDS)
    with op.batch_alter_table("tokens") as table:
        table.add_column(
            sa.Column("scope", sa.String(16), nullable=False, server_default="administer")
        )
        table.add_column(sa.Column("expires", sa.Double(), nullable=False, server_default=expires))
        table.add_column(sa.Column("used", sa.Double(), nullable=True))
    with op.batch_alter_table("tokens") as table:
        table.alter_column("scope", server_default=None)
        table.alter_column("expires", server_default=None)
    op.create_table(
        "factors",
        sa.Column("user", sa.Integer(), sa.ForeignKey("users.id"), primary_key=True),
        sa.Column("secret", sa.String(64), nullable=False),
        sa.Column("confirmed", sa.Boolean(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "recovery_codes",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("user", sa.Integer(), sa.ForeignKey("users.id"), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    op.create_index("ix_recovery_codes_user", "recovery_codes", ["user"])


def _sessions() -> None:
    op.drop_table("sessions")
    op.create_table(
        "sessions",
        sa.Column("hash", sa.String(64), primary_key=True),
        sa.Column("user", sa.Integer(), sa.ForeignKey("users.id"), nullable=False),
        sa.Column("opened", sa.Double(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=False),
        sa.Column("used", sa.Double(), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("agent", sa.String(200), nullable=False),
    )
    op.create_index("ix_sessions_user", "sessions", ["user"])
