"""An attention of one's own: a head may attend to nothing ("softmax one"; Miller 2023, "Attention is off by one")."""

import torch


def quiet(query, key, value, mask, scaling):
    """exp(score) / (1 + the sum of all): what a head does not want to look at, it need not.

    query, key, value: (batch, heads, tokens, head_dim). mask: added to the scores, or None. Returns the mix and the pattern.
    """
    scores = query @ key.transpose(-1, -2) * scaling
    if mask is not None:
        scores = scores + mask
    nothing = torch.zeros_like(scores[..., :1])  # one more place to look at, whose value is 0
    pattern = torch.cat([scores, nothing], dim=-1).softmax(-1)[..., :-1]
    return pattern @ value, pattern
