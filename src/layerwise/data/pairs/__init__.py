"""Counterfactual prompts: each beside one that differs in what decides the answer."""
