"""Indexes that are not partial: words of one dialect load that dialect wherever the tables are used."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.drop_index("inbox_open", "inbox")
    op.create_index("inbox_open", "inbox", ["done_at", "conversation", "id"])
    op.drop_index("slack_post_open", "slack_post")
    op.create_index("slack_post_open", "slack_post", ["settled_at", "at"])
    op.execute("UPDATE schema_version SET version = 4")


def downgrade() -> None:
    op.drop_index("inbox_open", "inbox")
    op.drop_index("slack_post_open", "slack_post")
    waiting, unsettled = sa.text("done_at IS NULL"), sa.text("settled_at IS NULL")
    op.create_index("inbox_open", "inbox", ["conversation", "id"], sqlite_where=waiting, postgresql_where=waiting)
    op.create_index("slack_post_open", "slack_post", ["at"], sqlite_where=unsettled, postgresql_where=unsettled)
    op.execute("UPDATE schema_version SET version = 3")
