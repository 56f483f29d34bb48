"""Pure functions of evidence: one file each."""
