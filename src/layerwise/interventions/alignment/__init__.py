"""Alignment: which part of a model's activations plays the role of a variable of a causal model."""
