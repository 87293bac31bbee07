"""Small networks that are trained on a task before they are looked into: where no model knows the task already."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from layerwise.data.tasks.equality_vectors import equality_vectors
from layerwise.interventions.alignment.counterfactuals import draw_examples
from layerwise.models.model import LanguageModel
from layerwise.models.module import TorchModel, wrap

if TYPE_CHECKING:
    from layerwise.interventions.alignment.tasks import TextTask, VectorTask

WIDTH, HIDDEN_LAYERS = 64, 3
STEPS, BATCH, RATE = 3000, 512, 3e-3
WORD_EXAMPLES, WORD_STEPS, WORD_BATCH, WORD_RATE = 20_000, 1500, 128, 2e-3


def learn_equality(task: VectorTask, seed: int, done: Callable[[int], None] = lambda steps: None) -> TorchModel:
    """A network of three hidden layers of 64, its sites ``0.output`` to ``6.output``, trained on shapes drawn anew each step."""
    generator = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inputs = len(task.vector(draw_examples(task.causal, 1, seed)[0]))
        sizes = [inputs, *[WIDTH] * HIDDEN_LAYERS]
        layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
        net = nn.Sequential(*layers, nn.Linear(WIDTH, len(task.answers)))
    _train(net, lambda: _equality_loss(net, generator, inputs // 4), STEPS, RATE, done)
    return wrap(net.eval(), "equality network")


def _equality_loss(net: nn.Module, generator: np.random.Generator, numbers: int) -> torch.Tensor:
    vectors, equal = equality_vectors(BATCH, generator, numbers)
    same = torch.from_numpy(equal[:, 0] == equal[:, 1]).long()
    return nn.functional.cross_entropy(net(torch.from_numpy(vectors)), same)


def learn_words(task: TextTask, seed: int, done: Callable[[int], None] = lambda steps: None) -> LanguageModel:
    """A Llama of three layers of width 64, a token for each word, trained on 20,000 examples of the task, none of them held out."""
    held_out = task.held_out

    def known(setting: dict[str, Any]) -> bool:
        return (task.allowed is None or task.allowed(setting)) and not (held_out is not None and held_out(setting))

    settings = draw_examples(task.causal, WORD_EXAMPLES, seed, where=known)
    output = task.causal.outputs[0]
    texts = [task.text(setting)[0] + task.words[setting[output]] for setting in settings]
    model = _word_model(texts, seed)
    ids = torch.from_numpy(np.stack(model.tokenize(texts).ids)).long()
    generator = torch.Generator().manual_seed(seed)

    def loss() -> torch.Tensor:
        rows = ids[torch.randint(len(ids), (WORD_BATCH,), generator=generator)]
        logits = model.module(rows[:, :-1]).logits[:, -1]
        return nn.functional.cross_entropy(logits, rows[:, -1])

    _train(model.module, loss, WORD_STEPS, WORD_RATE, done)
    model.module.eval()
    return model


TRAINING_STEPS: dict[Callable[..., Any], int] = {learn_equality: STEPS, learn_words: WORD_STEPS}


def _word_model(texts: list[str], seed: int) -> LanguageModel:
    words = sorted({word for text in texts for word in text.split()})
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(["<pad>", "<unk>", *words])}, "<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    config = LlamaConfig(
        vocab_size=len(words) + 2, hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=HIDDEN_LAYERS,
        num_attention_heads=4, max_position_embeddings=64, pad_token_id=0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = LlamaForCausalLM(config)
    return LanguageModel(module, fast, "word model")


def _train(
    module: nn.Module, loss: Callable[[], torch.Tensor], steps: int, rate: float, done: Callable[[int], None]
) -> None:
    """Adam, its rate rising and falling once."""
    module.train()
    optimizer = torch.optim.AdamW(module.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        done(1)
