"""The groups that a person was in when it decided: whether that still entitles is judged again when it runs."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("decision", sa.Column("member_of", sa.String, nullable=False, server_default=""))
    op.execute("UPDATE schema_version SET version = 6")


def downgrade() -> None:
    op.drop_column("decision", "member_of")
    op.execute("UPDATE schema_version SET version = 5")
