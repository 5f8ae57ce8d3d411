"""An inbox: what came in from people is stored before anything is done about it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "inbox",
        sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
        sa.Column("key", sa.String, nullable=False, unique=True),
        sa.Column("conversation", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("by", sa.String),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("wake_at", sa.Float, nullable=False, server_default="0"),
        sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
        sa.Column("seq", sa.Integer),
        sa.Column("done_at", sa.Float),
    )
    open_items = sa.text("done_at IS NULL")
    op.create_index("inbox_open", "inbox", ["conversation", "id"], sqlite_where=open_items, postgresql_where=open_items)
    # The program of before there were migrations looks there, and must see that this is none of its databases.
    _number(2)


def downgrade() -> None:
    _number(1)
    op.drop_table("inbox")


def _number(version: int) -> None:
    # Made anew: the first program left its column nullable on SQLite.
    op.drop_table("schema_version")
    op.create_table("schema_version", sa.Column("version", sa.Integer, primary_key=True))
    op.execute(f"INSERT INTO schema_version VALUES ({version})")
