"""What was posted in Slack: so that nothing is posted twice, and that any process can bring a card up to date."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "slack_post",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("conversation", sa.String, nullable=False, index=True),
        sa.Column("channel", sa.String, nullable=False),
        sa.Column("ts", sa.String),
        sa.Column("approval", sa.String, index=True),
        sa.Column("shown", sa.String, nullable=False, server_default=""),
        sa.Column("language", sa.String, nullable=False, server_default=""),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("settled_at", sa.Float),
    )
    unsettled = sa.text("settled_at IS NULL")
    op.create_index("slack_post_open", "slack_post", ["at"], sqlite_where=unsettled, postgresql_where=unsettled)
    op.execute("UPDATE schema_version SET version = 3")


def downgrade() -> None:
    op.drop_table("slack_post")
    op.execute("UPDATE schema_version SET version = 2")
