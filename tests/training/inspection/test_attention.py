"""Patterns are transformers' own; scores of heads are known for heads whose pattern is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from layerwise.errors import UserError
from layerwise.measures.attention import (
    duplicate_token_score,
    first_token_score,
    induction_score,
    previous_token_score,
)
from layerwise.models.loading import load_model
from layerwise.models.model import LanguageModel
from layerwise.training.inspection.attention import attention_patterns, head_progress, head_scores
from layerwise.training.inspection.config import RepeatedTokens

PROMPT = "the city of paris is in"
IDS = torch.tensor([9, 1, 2, 3, 1, 2, 3])


def looking(offsets: dict[int, int]) -> torch.Tensor:
    """(7, 7) every query looks at one key: by query its key, else itself."""
    pattern = torch.zeros(7, 7)
    for query in range(7):
        pattern[query, offsets.get(query, query)] = 1
    return pattern


def test_scores_of_known_heads() -> None:
    induction = looking({4: 2, 5: 3, 6: 4})
    assert induction_score(induction, IDS) == 1
    assert duplicate_token_score(induction, IDS) == 0
    duplicate = looking({4: 1, 5: 2, 6: 3})
    assert duplicate_token_score(duplicate, IDS) == 1
    assert induction_score(duplicate, IDS) == 0
    previous = looking({query: query - 1 for query in range(1, 7)})
    assert previous_token_score(previous) == 1
    assert first_token_score(looking(dict.fromkeys(range(7), 0))) == 1
    uniform = torch.ones(7, 7).tril() / torch.arange(1, 8)[:, None]
    both = torch.stack([induction, uniform])
    assert induction_score(both, IDS).tolist() == pytest.approx([1, (1 / 5 + 1 / 6 + 1 / 7) / 3])


def test_several_earlier_occurrences_count_together() -> None:
    ids = torch.tensor([1, 1, 1])
    pattern = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0.2, 0.3, 0.5]])
    assert induction_score(pattern, ids) == pytest.approx((0.5 + 0.8) / 2)
    assert duplicate_token_score(pattern, ids) == pytest.approx((0.5 + 0.5) / 2)
    assert torch.isnan(induction_score(pattern, torch.tensor([1, 2, 3])))


def test_patterns_are_the_models_own(model: LanguageModel, tiny_model_folder: Path) -> None:
    found = attention_patterns(model, PROMPT)
    assert list(found.patterns) == [f"pattern.{layer}.{head}" for layer in range(2) for head in range(4)]
    eager = load_model(str(tiny_model_folder))
    eager.module.set_attn_implementation("eager")
    with torch.no_grad():
        given = eager.module(torch.tensor([model.tokenizer(PROMPT)["input_ids"]]), output_attentions=True).attentions
    for site, pattern in found.patterns.items():
        layer, head = map(int, site.split(".")[1:])
        np.testing.assert_allclose(pattern, given[layer][0, head].numpy(), atol=1e-6)
    table = found.table()
    assert table["previous_token"][3] == pytest.approx(np.diagonal(found.patterns["pattern.0.3"], -1).mean())
    assert len(found.tokens) == len(found.patterns["pattern.0.0"])


def test_chosen_heads(model: LanguageModel) -> None:
    assert list(attention_patterns(model, PROMPT, "pattern.1.2,pattern.-1.0").patterns) == [
        "pattern.1.2",
        "pattern.1.0",
    ]
    assert list(attention_patterns(model, PROMPT, ["pattern.0"]).patterns) == [f"pattern.0.{head}" for head in range(4)]
    with pytest.raises(UserError, match="read at patterns"):
        attention_patterns(model, PROMPT, "z.0")


def test_head_scores_by_hand(model: LanguageModel) -> None:
    found = head_scores(model, RepeatedTokens(6, 1), seed=3)
    ids = np.random.default_rng(3).choice(
        [token for token in range(len(model.tokenizer)) if token not in model.tokenizer.all_special_ids],
        6,
        replace=False,
    )
    text = model.tokenizer.decode(np.concatenate([ids, ids]))
    patterns = attention_patterns(model, text).patterns
    read = torch.tensor(model.tokenizer(text)["input_ids"])
    assert read.tolist() == [2, *ids, *ids]
    for row in found.itertuples():
        pattern = torch.from_numpy(patterns[f"pattern.{row.layer}.{row.head}"])
        assert row.induction == pytest.approx(float(induction_score(pattern, read)), abs=1e-6)
        assert row.previous_token == pytest.approx(float(previous_token_score(pattern)), abs=1e-6)


def test_head_scores_of_chosen_tokens(model: LanguageModel) -> None:
    few = head_scores(model, RepeatedTokens(8, 2), tokens=[5, 6, 7])
    assert few["induction"].notna().all()
    with pytest.raises(UserError, match="longer than the 64"):
        head_scores(model, RepeatedTokens(40, 1))
    with pytest.raises(UserError, match="two at least"):
        head_scores(model, tokens=[5])


def test_one_head_through_checkpoints(model: LanguageModel, tiny_model_folder: Path) -> None:
    other = load_model(str(tiny_model_folder))
    with torch.no_grad():
        for parameter in other.module.parameters():
            parameter.mul_(0.5)
    found = head_progress([(0, other), (10, model)], PROMPT, "pattern.1.2", RepeatedTokens(4, 2))
    assert found.steps == (0, 10)
    np.testing.assert_array_equal(found.patterns[1], attention_patterns(model, PROMPT).patterns["pattern.1.2"])
    assert np.abs(found.patterns[0] - found.patterns[1]).max() > 1e-3
    assert found.scores["step"].tolist() == [0, 10]
    with pytest.raises(UserError, match="one head is followed"):
        head_progress([(0, model)], PROMPT, "pattern.1")
    with pytest.raises(UserError, match="no checkpoints"):
        head_progress([], PROMPT, "pattern.1.2")
