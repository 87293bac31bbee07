"""Steering: directions found in activations, added while the model runs, and what that does beside random directions."""
