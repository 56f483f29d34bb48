"""The audit as a page that people look at."""
