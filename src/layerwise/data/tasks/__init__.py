"""Synthetic tasks a model is trained on: each draws samples, checks full answers and says how hard it is. Imports no torch."""
