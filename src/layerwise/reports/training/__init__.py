"""Figures of trainings: learning curves, and what changes to a training change."""

from layerwise.reports.training.curves import learning_curves

__all__ = ["learning_curves"]
