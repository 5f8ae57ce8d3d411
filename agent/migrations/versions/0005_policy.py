"""How many people must approve, and whether who asked may be one of them: bound to an approval when it is asked for."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("approval", sa.Column("needed", sa.Integer, nullable=False, server_default="1"))
    op.add_column("approval", sa.Column("own", sa.Boolean, nullable=False, server_default=sa.true()))
    op.execute("UPDATE schema_version SET version = 5")


def downgrade() -> None:
    op.drop_column("approval", "own")
    op.drop_column("approval", "needed")
    op.execute("UPDATE schema_version SET version = 4")
