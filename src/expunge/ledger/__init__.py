"""The database of what was trained on, which tokens mattered, and what was asked to be deleted."""
