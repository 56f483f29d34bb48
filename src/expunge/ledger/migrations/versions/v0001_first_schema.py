"""First schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "entries",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("source_key", sa.Text, nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("subject_key", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("added_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_entries"),
        sa.CheckConstraint("action IN ('added', 'updated', 'removed')", name=op.f("ck_entries_action")),
    )
    op.create_index("ix_entries_subject_key", "entries", ["subject_key"])
    op.create_table(
        "runs",
        sa.Column("id", _ID, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("checkpoint", sa.String(128), nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        sa.UniqueConstraint("path", "checkpoint", name="uq_runs_path_checkpoint"),
    )
    op.create_table(
        "training_metadata",
        sa.Column("id", _ID, nullable=False),
        sa.Column("entry_id", sa.String(64), nullable=False),
        sa.Column("run_id", _ID, nullable=False),
        sa.Column("model_checkpoint_hash", sa.String(128), nullable=False),
        sa.Column("average_loss", sa.Double, nullable=True),
        sa.Column("relative_loss", sa.Double, nullable=True),
        sa.Column("used_in_training", sa.Boolean, nullable=False),
        sa.Column("timestamp", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_training_metadata"),
        sa.ForeignKeyConstraint(["entry_id"], ["entries.id"], name="fk_training_metadata_entry_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_training_metadata_run_id", ondelete="CASCADE"),
        sa.UniqueConstraint("entry_id", "run_id", name="uq_training_metadata_entry_id_run_id"),
    )
    op.create_index("ix_training_metadata_run_id", "training_metadata", ["run_id"])
    op.create_table(
        "token_impacts",
        sa.Column("id", _ID, nullable=False),
        sa.Column("metadata_id", _ID, nullable=False),
        sa.Column("total_tokens", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_token_impacts"),
        sa.ForeignKeyConstraint(
            ["metadata_id"], ["training_metadata.id"], name="fk_token_impacts_metadata_id", ondelete="CASCADE"
        ),
        sa.UniqueConstraint("metadata_id", name="uq_token_impacts_metadata_id"),
    )
    op.create_table(
        "top_tokens",
        sa.Column("id", _ID, nullable=False),
        sa.Column("token_impact_id", _ID, nullable=False),
        sa.Column("token_id", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("impact", sa.Double, nullable=False),
        sa.Column("context_start", sa.Integer, nullable=False),
        sa.Column("context_end", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_top_tokens"),
        sa.ForeignKeyConstraint(
            ["token_impact_id"], ["token_impacts.id"], name="fk_top_tokens_token_impact_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_top_tokens_token_impact_id_impact", "top_tokens", ["token_impact_id", "impact"])
    op.create_index("ix_top_tokens_token_id_impact", "top_tokens", ["token_id", "impact"])
    op.create_table(
        "deletion_requests",
        sa.Column("id", _ID, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=True),
        sa.Column("run_id", _ID, nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.Column("erased_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_deletion_requests"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_deletion_requests_run_id"),
        sa.CheckConstraint("state IN ('open', 'unlearned', 'audited', 'closed')", name=op.f("ck_deletion_requests_state")),
    )
    op.create_index("ix_deletion_requests_fingerprint", "deletion_requests", ["fingerprint"])
    op.create_table(
        "request_subjects",
        sa.Column("request_id", _ID, nullable=False),
        sa.Column("subject_key", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("request_id", "subject_key", name="pk_request_subjects"),
        sa.ForeignKeyConstraint(
            ["request_id"], ["deletion_requests.id"], name="fk_request_subjects_request_id", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "request_entries",
        sa.Column("request_id", _ID, nullable=False),
        sa.Column("entry_id", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("request_id", "entry_id", name="pk_request_entries"),
        sa.ForeignKeyConstraint(
            ["request_id"], ["deletion_requests.id"], name="fk_request_entries_request_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["entry_id"], ["entries.id"], name="fk_request_entries_entry_id", ondelete="CASCADE"),
    )
    op.create_index("ix_request_entries_entry_id", "request_entries", ["entry_id"])
    op.create_table(
        "audits",
        sa.Column("id", _ID, nullable=False),
        sa.Column("request_id", _ID, nullable=False),
        sa.Column("verdict", sa.JSON, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audits"),
        sa.ForeignKeyConstraint(["request_id"], ["deletion_requests.id"], name="fk_audits_request_id", ondelete="CASCADE"),
    )
    op.create_index("ix_audits_request_id", "audits", ["request_id"])
    op.create_table(
        "tombstones",
        sa.Column("id", _ID, nullable=False),
        sa.Column("request_id", _ID, nullable=False),
        sa.Column("salt", sa.String(32), nullable=False),
        sa.Column("subject_hash", sa.String(64), nullable=False),
        sa.Column("entries", sa.Integer, nullable=False),
        sa.Column("erased_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tombstones"),
        sa.ForeignKeyConstraint(["request_id"], ["deletion_requests.id"], name="fk_tombstones_request_id", ondelete="CASCADE"),
    )
    op.create_index("ix_tombstones_subject_hash", "tombstones", ["subject_hash"])


def downgrade() -> None:
    """Drop every table, and what is in it."""
    for table in (
        "tombstones",
        "audits",
        "request_entries",
        "request_subjects",
        "deletion_requests",
        "top_tokens",
        "token_impacts",
        "training_metadata",
        "runs",
        "entries",
    ):
        op.drop_table(table)
