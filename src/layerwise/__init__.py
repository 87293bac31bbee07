"""Layerwise: what transformer language models know, in which layer, and whether they use it."""

__version__ = "0.1.0"
