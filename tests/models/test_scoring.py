"""Log-likelihoods of texts: one row for many texts gives what each alone gives, in every architecture."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from contract import DECODERS, ENCODERS, SEQ2SEQ
from families import VOCABULARY, build, tiny

from layerwise.errors import UserError
from layerwise.models.continuations import Continuation
from layerwise.models.model import LanguageModel
from layerwise.models.packing import can_share, common_length
from layerwise.models.scoring import TokenScores, score
from layerwise.models.taps import tapped

# Whose texts cannot share a row: positions from columns or distances, a state, no attention mask of our own.
ALONE = ("bloom", "mpt", "falcon_alibi", "mamba", "layerwise_post_norm", "layerwise_lstm", "layerwise_gru")


def model_of(family: str) -> LanguageModel:
    return LanguageModel(build(family), SimpleNamespace(), family)


def text(ids: list[int] | np.ndarray, begins: int = 1, source: np.ndarray | None = None) -> Continuation:
    ids = np.asarray(ids, dtype=np.int64)
    return Continuation(ids, begins, np.ones(len(ids), dtype=bool), source)


def groups(prompts: int = 3) -> list[list[Continuation]]:
    """Prompts of different lengths with options of different lengths; one option is the beginning of another."""
    draw = np.random.default_rng(1)
    found = []
    for number in range(prompts):
        prompt = draw.integers(5, VOCABULARY, 3 + number)
        options = [draw.integers(5, VOCABULARY, length) for length in (3, 1, 4)]
        options.append(options[0][:2])
        found.append([text(np.concatenate([prompt, option])) for option in options])
    return found


def plainly(module: torch.nn.Module, ids: np.ndarray) -> np.ndarray:
    """Log-likelihoods of a text run alone, without any mask, in float64."""
    with torch.no_grad():
        logits = module(input_ids=torch.from_numpy(ids)[None]).logits[0].double()
    log_p = logits.log_softmax(-1)[:-1].gather(1, torch.from_numpy(ids[1:])[:, None])[:, 0]
    return log_p.numpy()


def near(scores: TokenScores, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(scores.log_p[len(scores.log_p) - len(expected) :], expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("family", DECODERS)
def test_every_token_has_the_likelihood_it_has_when_its_text_is_run_alone(family: str) -> None:
    given = groups()
    for group, of_group in zip(given, score(model_of(family), given), strict=True):
        for one, scores in zip(group, of_group, strict=True):
            assert np.isnan(scores.log_p[0])
            assert not scores.greedy[0]
            near(scores, plainly(build(family), one.ids))


@pytest.mark.parametrize("family", DECODERS)
def test_texts_share_a_row_in_every_architecture_that_can(family: str) -> None:
    assert can_share(model_of(family)) == (family not in ALONE)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "gemma2", "mamba", "gpt_neo"])
def test_batch_size_order_and_grouping_change_nothing(family: str) -> None:
    model, given = model_of(family), groups(5)
    expected = [one.log_p for of_group in score(model, given) for one in of_group]
    for budget in (1, 20, 10_000):
        again = [one.log_p for of_group in score(model, given, token_budget=budget) for one in of_group]
        for ours, theirs in zip(again, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)
    backwards = [one.log_p for of_group in score(model, given[::-1])[::-1] for one in of_group]
    alone = [one.log_p for group in given for text in group for [one] in score(model, [[text]])]
    for other in (backwards, alone):
        for ours, theirs in zip(other, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_plain_transformers_padded_on_either_side_give_the_same(family: str, side: str) -> None:
    [group] = groups(1)
    longest = max(len(one.ids) for one in group)
    ids, mask = torch.zeros(len(group), longest, dtype=torch.long), torch.zeros(len(group), longest, dtype=torch.long)
    for row, one in enumerate(group):
        place = slice(0, len(one.ids)) if side == "right" else slice(longest - len(one.ids), longest)
        ids[row, place], mask[row, place] = torch.from_numpy(one.ids), 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = build(family)(input_ids=ids, attention_mask=mask, position_ids=positions).logits.log_softmax(-1)
    for row, (one, scores) in enumerate(zip(group, score(model_of(family), [group])[0], strict=True)):
        start = 0 if side == "right" else longest - len(one.ids)
        columns = torch.arange(start, start + len(one.ids) - 1)
        near(scores, logits[row, columns, torch.from_numpy(one.ids[1:])].double().numpy())


@pytest.mark.parametrize("family", ["mistral", "gemma3", "gpt_neo"])
def test_texts_longer_than_a_window_of_attention_are_right_too(family: str) -> None:
    draw = np.random.default_rng(0)
    prompt = draw.integers(5, VOCABULARY, 9)
    given = [[text(np.concatenate([prompt, draw.integers(5, VOCABULARY, 3)])) for _ in range(3)]]
    for one, scores in zip(given[0], score(model_of(family), given)[0], strict=True):
        near(scores, plainly(build(family), one.ids))


@pytest.mark.parametrize("family", SEQ2SEQ)
def test_an_encoder_decoder_reads_the_source_and_writes_the_text(family: str) -> None:
    module, draw = build(family), np.random.default_rng(2)
    given = []
    for length in (3, 6):
        source = draw.integers(5, VOCABULARY, length)
        given.append([text(draw.integers(5, VOCABULARY, size), 0, source) for size in (2, 4)])
    start = module.config.decoder_start_token_id
    for group, of_group in zip(given, score(model_of(family), given), strict=True):
        for one, scores in zip(group, of_group, strict=True):
            assert one.source is not None
            written = torch.tensor([[start, *one.ids[:-1]]])
            with torch.no_grad():
                logits = module(input_ids=torch.from_numpy(one.source)[None], decoder_input_ids=written).logits[0]
            near(scores, logits.log_softmax(-1)[torch.arange(len(one.ids)), torch.from_numpy(one.ids)].double().numpy())


def test_what_the_model_would_write_itself_is_told() -> None:
    module = build("llama")
    prompt = np.array([7, 9, 11])
    with torch.no_grad():
        likeliest = int(module(input_ids=torch.from_numpy(prompt)[None]).logits[0, -1].argmax())
    other = 6 if likeliest != 6 else 8
    [scores] = score(model_of("llama"), [[text([*prompt, likeliest]), text([*prompt, other])]])
    assert [bool(one.greedy[-1]) for one in scores] == [True, False]


def test_a_model_in_training_is_scored_without_dropout_and_left_in_training() -> None:
    module = build("gpt2")
    expected = score(model_of("gpt2"), groups(1))
    module.train()
    try:
        again = score(model_of("gpt2"), groups(1))
        assert module.training
    finally:
        module.eval()
    np.testing.assert_array_equal(again[0][0].log_p, expected[0][0].log_p)


@pytest.mark.parametrize("family", ENCODERS[:2])
def test_an_encoder_is_refused(family: str) -> None:
    with pytest.raises(UserError, match=f"{family} is an encoder: each of its tokens sees those after it"):
        score(model_of(family), groups(1))


def test_how_much_texts_have_in_common() -> None:
    assert common_length([np.array([1, 2, 3]), np.array([1, 2]), np.array([1, 2, 5, 6])]) == 2
    assert common_length([np.array([1, 2]), np.array([3, 2])]) == 0


@pytest.mark.parametrize("site", ["mlp_out.0", "z.1", "k.0", "pattern.1"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_under_standing_taps_texts_share_rows_and_get_what_each_gets_alone(family: str, site: str) -> None:
    model, given = model_of(family), groups()
    plain = score(model, given)
    with tapped(tiny(family), None, {site: lambda value: value * 0.5}):
        scored = score(model, given)
        expected = [[plainly(build(family), one.ids) for one in group] for group in given]
    assert np.abs(scored[0][0].log_p[1:] - plain[0][0].log_p[1:]).max() > 1e-4
    for of_group, wanted in zip(scored, expected, strict=True):
        for one, each in zip(of_group, wanted, strict=True):
            near(one, each)
