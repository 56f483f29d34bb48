"""Ways to get forgotten knowledge back."""
