"""A loss and a callback of one's own: pay for being sure, and watch how sure the model is."""

import torch
from transformers import TrainerCallback

from layerwise.training.losses import cross_entropy


def less_sure(outputs, labels, num_items_in_batch=None, price=0.1):
    """Cross-entropy, less ``price`` nats for each nat of entropy of what is predicted (Pereyra et al. 2017)."""
    loss = cross_entropy(outputs, labels, num_items_in_batch)
    counted = labels[:, 1:] != -100
    log_p = outputs.logits[:, :-1].float().log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)[counted].sum()
    return loss - price * entropy / (counted.sum() if num_items_in_batch is None else num_items_in_batch)


class LargestNorm(TrainerCallback):
    """Says at every evaluation which weight is the longest."""

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        norms = {name: float(torch.linalg.vector_norm(weight.detach())) for name, weight in model.named_parameters()}
        longest = max(norms, key=norms.get)
        print(f"step {state.global_step}: the longest weight is {longest}, {norms[longest]:.2f}")
