"""One file a command: each reads top to bottom as the story of that stage."""
