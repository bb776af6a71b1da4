"""Activations: kept or computed, and their bins."""
