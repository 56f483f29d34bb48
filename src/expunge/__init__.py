"""expunge makes a language model forget what it was asked to forget, proves it against attack, and ships the model."""

__version__ = "0.1.0"
