"""Which estimator a run's token impacts come from."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, unknown for the runs that are there."""
    op.add_column("runs", sa.Column("impact_estimator", sa.String(64), nullable=True))


def downgrade() -> None:
    """Drop it, in place: a copy of the table would take the training uses with it when the old one is dropped."""
    op.drop_column("runs", "impact_estimator")
