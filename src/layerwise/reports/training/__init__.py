"""Figures of trainings: learning curves, and what changes to a training change."""

from layerwise.reports.training.curves import ablation_chart, learning_curves

__all__ = ["ablation_chart", "learning_curves"]
