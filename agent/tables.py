"""The tables of the journal, for SQLite and PostgreSQL alike; `agent/migrations` brings older databases to them."""

import sqlalchemy as sa

REVISION = "0006"
"""The newest migration: what a database of this program says of itself."""

metadata = sa.MetaData()
schema_version = sa.Table("schema_version", metadata, sa.Column("version", sa.Integer, primary_key=True))
"""How the first version of this program numbered its databases: it looks here to see that it is too old for one."""
conversation = sa.Table(
    "conversation",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Column("first_words", sa.String, nullable=False, server_default=""),
    sa.Column("owner", sa.String),
    sa.Column("lease_until", sa.Float, nullable=False, server_default="0"),
)
event = sa.Table(
    "event",
    metadata,
    sa.Column("conversation", sa.String, primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("by", sa.String),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)
inbox = sa.Table(
    "inbox",
    metadata,
    # In the order of arrival: a conversation's items are worked on one after the other.
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
# Not partial ones: words of one dialect would load it for the other, too.
sa.Index("inbox_open", inbox.c.done_at, inbox.c.conversation, inbox.c.id)
approval = sa.Table(
    "approval",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("conversation", sa.String, nullable=False, index=True),
    sa.Column("tool", sa.String, nullable=False),
    sa.Column("calls", sa.Text, nullable=False),
    sa.Column("arguments_sha256", sa.String, nullable=False),
    sa.Column("preview", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.String, nullable=False),
    sa.Column("base_url", sa.String, nullable=False),
    sa.Column("workspace", sa.String, nullable=False),
    sa.Column("key_id", sa.String, nullable=False),
    sa.Column("requested_by", sa.String, nullable=False),
    sa.Column("deciders", sa.String, nullable=False),
    sa.Column("needed", sa.Integer, nullable=False, server_default="1"),
    sa.Column("own", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("requested_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False),
    sa.Column("state", sa.String, nullable=False, index=True),
    sa.Column("decided_at", sa.Float),
    sa.Column("outcome", sa.Text),
)
decision = sa.Table(
    "decision",
    metadata,
    sa.Column("approval", sa.String, primary_key=True),
    sa.Column("identity", sa.String, primary_key=True),
    sa.Column("decision", sa.String, nullable=False),
    sa.Column("reason", sa.String),
    sa.Column("interactive", sa.Boolean, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("member_of", sa.String, nullable=False, server_default=""),
)
attempt = sa.Table(
    "attempt",
    metadata,
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
    sa.Index("attempt_target", "target", "started_at"),
    sa.Index("attempt_state", "state"),
)
lock = sa.Table(
    "campaign_lock",
    metadata,
    sa.Column("target", sa.String, primary_key=True),
    sa.Column("owner", sa.String),
    sa.Column("until", sa.Float, nullable=False, server_default="0"),
)
slack_post = sa.Table(
    "slack_post",
    metadata,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("conversation", sa.String, nullable=False, index=True),
    sa.Column("channel", sa.String, nullable=False),
    # Unknown from the moment before it is posted until Slack has answered.
    sa.Column("ts", sa.String),
    sa.Column("approval", sa.String, index=True),
    sa.Column("shown", sa.String, nullable=False, server_default=""),
    sa.Column("language", sa.String, nullable=False, server_default=""),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("settled_at", sa.Float),
)
sa.Index("slack_post_open", slack_post.c.settled_at, slack_post.c.at)
