"""Sweeps over a model's parts: ablation, activation patching, causal tracing, path patching, attribution."""
