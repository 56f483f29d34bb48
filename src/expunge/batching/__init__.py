"""From examples to token batches."""
