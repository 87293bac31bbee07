"""Training transformers, and looking into them."""
