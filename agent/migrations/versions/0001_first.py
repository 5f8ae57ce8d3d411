"""The first shape. Databases that have it were made whole, before there were migrations."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table("schema_version", sa.Column("version", sa.Integer, primary_key=True))
    op.execute("INSERT INTO schema_version VALUES (1)")
    op.create_table(
        "conversation",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
        sa.Column("first_words", sa.String, nullable=False, server_default=""),
        sa.Column("owner", sa.String),
        sa.Column("lease_until", sa.Float, nullable=False, server_default="0"),
    )
    op.create_table(
        "event",
        sa.Column("conversation", sa.String, primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("by", sa.String),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_table(
        "campaign_lock",
        sa.Column("target", sa.String, primary_key=True),
        sa.Column("owner", sa.String),
        sa.Column("until", sa.Float, nullable=False, server_default="0"),
    )
    _approvals()
    _attempts()


def _approvals() -> None:
    texts = ("tool", "calls", "arguments_sha256", "preview", "fingerprint", "base_url", "workspace", "key_id")
    long = ("calls", "preview")
    op.create_table(
        "approval",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("conversation", sa.String, nullable=False, index=True),
        *(sa.Column(name, sa.Text if name in long else sa.String, nullable=False) for name in texts),
        sa.Column("requested_by", sa.String, nullable=False),
        sa.Column("deciders", sa.String, nullable=False),
        sa.Column("requested_at", sa.Float, nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False),
        sa.Column("state", sa.String, nullable=False, index=True),
        sa.Column("decided_at", sa.Float),
        sa.Column("outcome", sa.Text),
    )
    op.create_table(
        "decision",
        sa.Column("approval", sa.String, primary_key=True),
        sa.Column("identity", sa.String, primary_key=True),
        sa.Column("decision", sa.String, nullable=False),
        sa.Column("reason", sa.String),
        sa.Column("interactive", sa.Boolean, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )


def _attempts() -> None:
    op.create_table(
        "attempt",
        sa.Column("approval", sa.String, primary_key=True),
        sa.Column("call_id", sa.String, primary_key=True),
        sa.Column("id", sa.String, nullable=False, unique=True),
        sa.Column("conversation", sa.String, nullable=False),
        sa.Column("tool", sa.String, nullable=False),
        sa.Column("target", sa.String, nullable=False),
        sa.Column("arguments", sa.Text, nullable=False),
        sa.Column("size", sa.Integer, nullable=False, server_default="0"),
        sa.Column("template", sa.String),
        sa.Column("recipients", sa.LargeBinary),
        sa.Column("last_date", sa.Float),
        sa.Column("by", sa.String, nullable=False),
        sa.Column("started_at", sa.Float, nullable=False),
        sa.Column("deadline", sa.Float, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("ended_at", sa.Float),
        sa.Column("outcome", sa.Text),
    )
    op.create_index("attempt_target", "attempt", ["target", "started_at"])
    op.create_index("attempt_state", "attempt", ["state"])
