"""What is drawn follows the distribution it is said to follow, and what is searched for is what is likeliest."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layerwise.errors import UserError
from layerwise.models.generation import continue_texts
from layerwise.models.model import LanguageModel
from layerwise.training.build import build_model
from layerwise.training.data_config import Characters, TaskData
from layerwise.training.inspection.config import Sampling
from layerwise.training.inspection.next_token import next_tokens
from layerwise.training.inspection.sampling import sample
from layerwise.training.model_config import BuiltModel
from layerwise.training.prepared import prepare_data

PROMPT = "the city of"


def expected(
    model: LanguageModel, temperature: float, top_k: int | None = None, top_p: float | None = None
) -> np.ndarray:
    """(vocabulary,) temperature, then the k likeliest, then the nucleus, written out."""
    found = next_tokens(model, PROMPT)
    p = np.zeros(len(found.ids))
    p[found.ids] = np.exp(found.log_p / temperature)
    p /= p.sum()
    order = np.argsort(-p)
    if top_k is not None:
        p[order[top_k:]] = 0
        p /= p.sum()
    if top_p is not None:
        before = np.cumsum(p[order]) - p[order]
        p[order[before >= top_p]] = 0
        p /= p.sum()
    return p


@pytest.mark.parametrize(
    "options", [{"temperature": 1.0}, {"temperature": 0.5, "top_k": 5}, {"temperature": 0.5, "top_p": 0.6},
                {"temperature": 2.0, "top_k": 12, "top_p": 0.8}]
)  # fmt: skip
def test_draws_follow_the_distribution(model: LanguageModel, options: dict[str, float]) -> None:
    n = 4000
    [found] = sample(model, [PROMPT], Sampling(1, n, **options), token_budget=8000)  # type: ignore[arg-type]
    counts = np.bincount([one.ids[0] for one in found], minlength=model.vocabulary_size)
    p = expected(model, **options)  # type: ignore[arg-type]
    assert not counts[p == 0].any()
    assert np.abs(counts / n - p).max() < 5 * np.sqrt(p.max() * (1 - p.max()) / n)


def test_nucleus_is_taken_after_the_temperature(model: LanguageModel) -> None:
    cold, warm = (np.count_nonzero(expected(model, t, top_p=0.6)) for t in (0.2, 3.0))
    assert cold < warm
    for temperature, size in ((0.2, cold), (3.0, warm)):
        [found] = sample(model, [PROMPT], Sampling(1, 3000, temperature, top_p=0.6), token_budget=8000)
        assert len({one.ids[0] for one in found}) == size


def test_temperature_zero_is_greedy(model: LanguageModel) -> None:
    prompts = ["the city of paris is in", "a dog", "one two three"]
    found = sample(model, prompts, Sampling(8, temperature=0))
    texts = [model.tokenizer.decode(row[0].ids, skip_special_tokens=True) for row in found]
    assert texts == continue_texts(model, prompts, max_new_tokens=8)


def test_one_by_one_as_in_a_batch(model: LanguageModel) -> None:
    prompts = ["the city of paris is in", "a dog", ""]
    together = sample(model, prompts, Sampling(8, temperature=0), token_budget=10_000)
    alone = [sample(model, [prompt], Sampling(8, temperature=0))[0] for prompt in prompts]
    assert [row[0].ids for row in together] == [row[0].ids for row in alone]


def test_beams_find_the_likeliest(model: LanguageModel) -> None:
    beams = model.vocabulary_size
    [found] = sample(model, [PROMPT], Sampling(2, samples=3, beams=beams))
    ids = torch.tensor([model.tokenizer(PROMPT)["input_ids"]])
    with torch.no_grad():
        first = model.module(ids).logits[0, -1].log_softmax(-1)
        longer = torch.cat([ids.expand(beams, -1), torch.arange(beams)[:, None]], dim=1)
        second = model.module(longer).logits[:, -1].log_softmax(-1)
    both = first[:, None] + second
    both[model.module.config.eos_token_id] = -torch.inf  # a text that ended has no second token
    best = both.flatten().topk(3).values
    kept = [one for one in found if len(one.ids) == 2]
    assert [one.log_p for one in kept] == pytest.approx(best[: len(kept)].tolist(), abs=1e-4)
    assert len(kept) >= 2


def test_log_p_is_the_models_own(model: LanguageModel) -> None:
    [[one]] = sample(model, [PROMPT], Sampling(6, temperature=0.3, top_k=4))
    ids = torch.tensor([[*model.tokenizer(PROMPT)["input_ids"], *one.ids]])
    with torch.no_grad():
        log_p = model.module(ids).logits[0].log_softmax(-1)
    start = ids.shape[1] - len(one.ids)
    assert one.log_p == pytest.approx(sum(float(log_p[start + i - 1, t]) for i, t in enumerate(one.ids)), abs=1e-4)


def test_a_seed_and_nothing_else(model: LanguageModel) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (sample(model, [PROMPT], Sampling(8, 4), seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)


def test_an_ended_text(model: LanguageModel) -> None:
    eos = model.module.config.eos_token_id
    rows = sample(model, [PROMPT], Sampling(40, 40))[0]
    assert any(one.ended for one in rows)
    for one in rows:
        assert one.ended == (one.ids[-1] == eos)
        assert eos not in one.ids[:-1]
        assert "</s>" not in one.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature must be at least 0"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_p": 1.5}, "top_p must be more than 0"),
        ({"beams": 3, "top_k": 4}, "top_k are of drawing, and beams search"),
        ({"temperature": 0, "top_p": 0.5}, "temperature 0 takes the likeliest"),
        ({"beams": 3, "temperature": 0.7}, "0.7 is of drawing"),
        ({"beams": 2, "samples": 3}, "samples 3 is more than there are: 2 with beams 2"),
        ({"temperature": 0, "samples": 2}, "1 with temperature 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
    ],
)
def test_what_cannot_be(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Sampling(**options)  # type: ignore[arg-type]


def test_too_long(model: LanguageModel) -> None:
    with pytest.raises(UserError, match="over the 64"):
        sample(model, ["a dog"], Sampling(63))


def test_what_is_written_reads_on_from_the_prompt() -> None:
    """A tokenizer of words drops the space before a first word; behind the prompt it is there."""
    data = prepare_data(TaskData("induction", {"symbols": 20}, train=20, validation=5, test=5), Characters(), 44)
    module = build_model(BuiltModel(n_layers=1, n_heads=1, width=8), data.tokenizer, 44, 0).eval()
    model = LanguageModel(module, data.tokenizer, "untrained")
    [[found]] = sample(model, ["3 1 4"], Sampling(max_new_tokens=3, temperature=0))
    ids = data.tokenizer.encode("3 1 4", add_special_tokens=False)
    assert "3 1 4" + found.text == data.tokenizer.decode([*ids, *found.ids], skip_special_tokens=True)
