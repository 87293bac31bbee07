"""A probe's score on every token while the model generates: one generation, nothing computed twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from layerwise.errors import UserError
from layerwise.models.model import LanguageModel
from layerwise.models.scored_text import ScoredText, laid_out
from layerwise.models.taps import tapped
from layerwise.probes.fitted import FittedProbe
from layerwise.probes.token_scores import TokenScorer

_SEVERAL = {"num_beams": 1, "num_return_sequences": 1, "assistant_model": None, "prompt_lookup_num_tokens": None}


@dataclass(frozen=True)
class TokenScore:
    """One token as it goes by: its place among all tokens, its id, what it adds to the text, its score."""

    position: int
    token_id: int
    text: str
    score: float
    is_prompt: bool


def generate_with_scores(
    model: LanguageModel,
    probe: FittedProbe,
    prompt: str,
    max_new_tokens: int = 64,
    on_token: Callable[[TokenScore], None] | None = None,
    label: str | int | None = None,
    seed: int = 0,
    **generate_kwargs: Any,
) -> ScoredText:
    """Generate from a prompt and score every token, the prompt's included.

    A token is scored when the model reads it, so ``on_token`` hears of a generated one when the next is being made; the very
    last takes a step of its own. Works with and without a key-value cache. The score is that of the token's own vector.

    Args:
        on_token: called for each token in order, live.
        label: the class to score for, as in ``score_tokens``.
        seed: of the sampling; torch's global generator is left as it was.
        generate_kwargs: of ``generate``, such as ``do_sample``, ``temperature``, ``use_cache``.

    Raises UserError where the model cannot generate text or is not the probe's, for a probe that reads whole texts, several
    sequences at once (beams), and a prompt that leaves no room for the new tokens.
    """
    scorer = TokenScorer(probe, label)
    _check(model, probe, scorer, generate_kwargs)
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens must be at least 1, got {max_new_tokens}.")
    ids = torch.from_numpy(model.tokenize([prompt]).ids[0])[None].to(model.device)
    if model.max_length is not None and ids.shape[1] + max_new_tokens > model.max_length:
        raise UserError(
            f"the prompt's {ids.shape[1]} tokens and {max_new_tokens} new ones are more than {model.name} reads: {model.max_length}."
        )
    devices = [model.device] if model.device.type == "cuda" else []
    with tapped(model, dict.fromkeys(probe.sites)) as captured, torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(seed)
        live = _Live(model, scorer, captured, on_token)
        model.module.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            streamer=live,
            **generate_kwargs,
        )
        captured.clear()
        everything = torch.tensor([live.ids], device=model.device)
        model.body(input_ids=everything, attention_mask=torch.ones_like(everything), use_cache=False)
        live.read()
    text, places = laid_out(model.tokenizer, live.ids)
    pieces = tuple(text[start:end] for start, end in places.tolist())
    scores = np.array(live.scores)
    return ScoredText(text, pieces, places, scores, scorer.meaning, scorer.neutral, ids.shape[1])


def _check(model: LanguageModel, probe: FittedProbe, scorer: TokenScorer, generate_kwargs: dict[str, Any]) -> None:
    probe.check_model(model)
    if model.is_encoder_decoder or model.is_encoder or not model.module.can_generate():
        raise UserError(f"{model.name} does not continue a text token by token: only decoders generate with scores.")
    if scorer.attends:
        raise UserError(
            "an attention probe reads a whole text at once, so it cannot score tokens as they come: use score_tokens."
        )
    if "logits" in probe.sites:
        raise UserError(
            "generation computes the logits of the last token alone: score a probe of them with score_tokens."
        )
    for name, single in _SEVERAL.items():
        if generate_kwargs.get(name, single) != single:
            raise UserError(f"generation with scores follows one sequence: leave {name} out.")


class _Live(BaseStreamer):
    """What ``generate`` hands its tokens to: first the prompt, then each new one, after the forward that made it."""

    def __init__(
        self,
        model: LanguageModel,
        scorer: TokenScorer,
        captured: dict[str, Tensor],
        on_token: Callable[[TokenScore], None] | None,
    ) -> None:
        self.model, self.scorer, self.captured, self.on_token = model, scorer, captured, on_token
        self.ids: list[int] = []
        self.scores: list[float] = []
        self.prompt_tokens = 0
        self._shown = 0

    def put(self, value: Tensor) -> None:
        new = value.reshape(-1).tolist()
        if not self.ids:
            self.prompt_tokens = len(new)
        else:
            self.read()
        self.ids += new

    def end(self) -> None:
        """The end of the generation; the last token has not been read by the model yet."""

    def read(self) -> None:
        """Score the tokens that the forward just done was the first to read."""
        waiting = len(self.ids) - len(self.scores)
        features = [_last(self.captured[site], waiting) for site in self.scorer.probe.sites]
        for score in self.scorer.rows(self.scorer.probe.joined(features)).tolist():
            position = len(self.scores)
            self.scores.append(score)
            if self.on_token is not None:
                piece = self._piece(position)
                self.on_token(TokenScore(position, self.ids[position], piece, score, position < self.prompt_tokens))

    def _piece(self, position: int) -> str:
        """What the token at ``position`` adds to the text shown so far; a half character waits for its other half."""
        text = self.model.tokenizer.decode(self.ids[: position + 1]).rstrip("\N{REPLACEMENT CHARACTER}")
        piece = text[self._shown :]
        self._shown = max(self._shown, len(text))
        return piece


def _last(value: Tensor, count: int) -> NDArray[np.float32]:
    """(1, tokens, …width) → (count, width) of the last tokens: with a cache all there are, without it the new ones."""
    return value[0, -count:].flatten(1).float().cpu().numpy()
