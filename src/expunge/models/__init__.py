"""Loading, saving and naming models and adapters."""
