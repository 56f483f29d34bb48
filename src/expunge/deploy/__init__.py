"""From weights to the file that ships, and asking that file."""
