"""A feed-forward that adds nothing: what is left are attention-only transformers (Elhage et al. 2021)."""

import torch
from torch import nn


class Nothing(nn.Module):
    """In the place of a feed-forward; built for each layer, like any piece of one's own."""

    def __init__(self, config, layer):
        super().__init__()

    def forward(self, hidden):
        return torch.zeros_like(hidden)
