"""Notices, which the provisioner reports for the server, and the cluster's data for containers."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "notices",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        sa.Column("dynakube", sa.String(), nullable=False),
        sa.Column("pod_name", sa.String(), nullable=False),
        sa.Column("pod_namespace", sa.String(), nullable=False),
        sa.Column("pod_uid", sa.String(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "cursors",
        sa.Column("reader", sa.String(), primary_key=True),
        sa.Column("notice_id", sa.Integer(), nullable=False),
    )
    with op.batch_alter_table("dynakubes") as dynakubes:
        dynakubes.add_column(sa.Column("cluster_id", sa.String(), nullable=False, server_default=""))
        dynakubes.add_column(sa.Column("host_tenant", sa.Boolean(), nullable=False, server_default=sa.false()))
