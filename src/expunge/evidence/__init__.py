"""What a model did on a set, recorded once."""
