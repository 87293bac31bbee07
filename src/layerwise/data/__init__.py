"""Data: sources, text datasets, generators, splits, length batching. A plain library; imports no torch."""
