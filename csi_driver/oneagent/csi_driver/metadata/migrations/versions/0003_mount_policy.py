"""Mount policy: what pods get while their DynaKube's version is missing."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("dynakubes") as dynakubes:
        dynakubes.add_column(sa.Column("mount_policy", sa.String(), nullable=False, server_default="wait"))
        dynakubes.add_column(sa.Column("good_version", sa.String(), nullable=False, server_default=""))
        dynakubes.add_column(sa.Column("good_layer", sa.String(), nullable=False, server_default=""))
