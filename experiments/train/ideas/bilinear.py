"""A feed-forward of one's own: two linear maps multiplied, with no non-linearity at all (Pearce et al. 2024, "Bilinear MLPs")."""

from torch import nn

from layerwise.models.transformer.linear import IntoResidual


class Bilinear(nn.Module):
    """(batch, tokens, width) → the same. A piece is made for each layer, from the model's config."""

    def __init__(self, config, layer):
        super().__init__()
        self.left = nn.Linear(config.width, config.neurons, bias=False)
        self.right = nn.Linear(config.width, config.neurons, bias=False)
        self.down = IntoResidual(
            config.neurons, config.width, bias=False
        )  # begins small, like all that ends in the residual stream

    def forward(self, hidden):
        return self.down(self.left(hidden) * self.right(hidden))
