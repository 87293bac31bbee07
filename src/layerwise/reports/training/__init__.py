"""Figures of trainings: learning curves, what changes to a training change, what a model wrote on the way."""

from layerwise.reports.training.curves import ablation_chart, learning_curves
from layerwise.reports.training.samples import samples_page, samples_section

__all__ = ["ablation_chart", "learning_curves", "samples_page", "samples_section"]
