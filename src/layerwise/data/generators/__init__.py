"""Datasets written here from facts: balanced, deterministic, no entity in two groups. They are the offline default."""
