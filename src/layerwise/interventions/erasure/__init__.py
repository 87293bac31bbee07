"""Erasure: a concept taken out of a model's activations so that no linear probe finds it, with as little changed as may be."""
