"""Ways to unlearn: one file each."""
