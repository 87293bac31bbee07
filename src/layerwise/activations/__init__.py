"""Activations: poolers, collection in one pass, the on-disk store. A plain library."""
