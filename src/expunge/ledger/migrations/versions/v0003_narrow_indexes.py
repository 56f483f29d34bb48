"""Indexes of top tokens without the impact: writing them was most of what recording cost."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the narrow ones, drop the wide ones."""
    op.create_index("ix_top_tokens_token_impact_id", "top_tokens", ["token_impact_id"])
    op.create_index("ix_top_tokens_token_id", "top_tokens", ["token_id"])
    op.drop_index("ix_top_tokens_token_impact_id_impact", "top_tokens")
    op.drop_index("ix_top_tokens_token_id_impact", "top_tokens")


def downgrade() -> None:
    """The other way round."""
    op.create_index("ix_top_tokens_token_impact_id_impact", "top_tokens", ["token_impact_id", "impact"])
    op.create_index("ix_top_tokens_token_id_impact", "top_tokens", ["token_id", "impact"])
    op.drop_index("ix_top_tokens_token_impact_id", "top_tokens")
    op.drop_index("ix_top_tokens_token_id", "top_tokens")
