"""The contract of the poolers, over every pooler, every side of padding, in batches and alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layerwise.activations.poolers import (
    POOLERS,
    First,
    Index,
    Last,
    LastK,
    Max,
    Mean,
    Min,
    NoPool,
    Quantile,
    Quantiles,
    Span,
    Sum,
    TokenIds,
    as_poolers,
    parse_pooler,
)
from layerwise.activations.pooling import PoolingPlan, TokenPlan, TokenRows
from layerwise.errors import UserError

LENGTHS = (3, 7, 4, 7)
WIDTH = 5
SPANS = np.array([[2, 3], [4, 11], [0, 1], [6, 7]])

# What each pooler does with one text: x (tokens, width), its token ids, and its character span. Every token but the
# first, which is special, is two characters of the text: token t is characters 2(t − 1) to 2t.
REFERENCE = {
    First(): lambda x, ids, span: x[0],
    Last(): lambda x, ids, span: x[-1],
    Index(1): lambda x, ids, span: x[1],
    Index(-2): lambda x, ids, span: x[-2],
    Quantile(0.0): lambda x, ids, span: x[0],
    Quantile(0.3): lambda x, ids, span: x[round(0.3 * (len(x) - 1))],
    Quantile(0.5): lambda x, ids, span: x[round(0.5 * (len(x) - 1))],
    Quantile(1.0): lambda x, ids, span: x[-1],
    Mean(): lambda x, ids, span: x.mean(0),
    Max(): lambda x, ids, span: x.max(0),
    Min(): lambda x, ids, span: x.min(0),
    Sum(): lambda x, ids, span: x.sum(0),
    LastK(2): lambda x, ids, span: x[-2:].mean(0),
    LastK(5): lambda x, ids, span: x[-5:].mean(0),
    Span(): lambda x, ids, span: x[1 + span[0] // 2 : 1 + -(-span[1] // 2)].mean(0),
    Span(1, 3): lambda x, ids, span: x[1:3].mean(0),
    Span(1, 3, "tokens"): lambda x, ids, span: x[1:3].mean(0),
    TokenIds((5, 7)): lambda x, ids, span: x[np.isin(ids, (5, 7))].mean(0),
    Quantiles((0.25, 0.75), "mean"): lambda x, ids, span: x[[round(q * (len(x) - 1)) for q in (0.25, 0.75)]].mean(0),
    Quantiles((0.0, 0.5, 1.0), "max"): lambda x, ids, span: x[[round(q * (len(x) - 1)) for q in (0, 0.5, 1)]].max(0),
    Quantiles((0.1, 0.9), "min"): lambda x, ids, span: x[[round(q * (len(x) - 1)) for q in (0.1, 0.9)]].min(0),
    Mean(over="text"): lambda x, ids, span: x[1:].mean(0),
    First(over="text"): lambda x, ids, span: x[1],
    Quantile(0.5, over="text"): lambda x, ids, span: x[1:][round(0.5 * (len(x) - 2))],
    Max(over="text"): lambda x, ids, span: x[1:].max(0),
    LastK(5, over="text"): lambda x, ids, span: x[1:][-5:].mean(0),
}
every_pooler = pytest.mark.parametrize("pooler", REFERENCE, ids=lambda pooler: pooler.label)
every_side = pytest.mark.parametrize("side", ["left", "right", "both"])


def texts() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Per text: activations (tokens, width), token ids, offsets (tokens, 2)."""
    draw = np.random.default_rng(0)
    made = []
    for length in LENGTHS:
        offsets = np.array([(-1, -1), *((2 * t, 2 * t + 2) for t in range(length - 1))])
        ids = np.array([5, 6, 7, 8, 5, 9, 7])[:length]
        made.append((draw.normal(size=(length, WIDTH)), ids, offsets))
    return made


def batch(rows: list[int], side: str, filler: float) -> tuple[torch.Tensor, torch.Tensor, TokenRows]:
    """The texts at ``rows``, padded at ``side`` with ``filler`` as activations and ids and offsets that would be chosen."""
    chosen = [texts()[row] for row in rows]
    longest = max(len(ids) for _, ids, _ in chosen) + (2 if side == "both" else 0)
    hidden = np.full((len(rows), longest, WIDTH), filler)
    mask, special = np.zeros((2, len(rows), longest), dtype=bool)
    ids = np.full((len(rows), longest), 5)
    offsets = np.zeros((len(rows), longest, 2), dtype=np.int64) + np.array([0, 20])
    for place, (values, tokens, places) in enumerate(chosen):
        start = {"right": 0, "both": 1, "left": longest - len(tokens)}[side]
        part = slice(start, start + len(tokens))
        hidden[place, part], ids[place, part], offsets[place, part], mask[place, part] = values, tokens, places, True
        special[place, start] = True
    context = TokenRows(mask, ids, special, offsets, SPANS[rows], np.array(rows))
    return torch.tensor(hidden), torch.tensor(mask), context


@every_pooler
@every_side
@pytest.mark.parametrize("filler", [0.0, 1e9, float("inf"), float("nan")])
def test_a_pooler_sees_the_real_tokens_and_nothing_else(pooler, side, filler) -> None:
    hidden, mask, context = batch([0, 1, 2, 3], side, filler)
    expected = np.stack([REFERENCE[pooler](x, ids, SPANS[row]) for row, (x, ids, _) in enumerate(texts())])
    np.testing.assert_allclose(pooler(hidden, mask, context).numpy(), expected, rtol=1e-12)


@every_pooler
@every_side
def test_alone_and_in_a_batch_are_the_same(pooler, side) -> None:
    together = pooler(*batch([0, 1, 2, 3], side, float("nan")))
    alone = torch.cat([pooler(*batch([row], "right", 0.0)) for row in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=0)


@every_side
def test_many_poolers_in_one_plan_give_what_each_gives(side) -> None:
    hidden, mask, context = batch([0, 1, 2, 3], side, float("nan"))
    together = PoolingPlan(list(REFERENCE), context)(hidden)
    assert together.shape == (4, len(REFERENCE), WIDTH)
    for place, pooler in enumerate(REFERENCE):
        torch.testing.assert_close(together[:, place], pooler(hidden, mask, context), rtol=1e-12, atol=0)


@every_side
def test_without_pooling_the_real_tokens_follow_one_another(side) -> None:
    hidden, mask, context = batch([1, 0], side, float("nan"))
    np.testing.assert_array_equal(NoPool()(hidden, mask, context), np.concatenate([texts()[1][0], texts()[0][0]]))
    own = TokenPlan(NoPool(over="text"), context)
    np.testing.assert_array_equal(own(hidden), np.concatenate([texts()[1][0][1:], texts()[0][0][1:]]))
    assert own.lengths.tolist() == [6, 2]


@every_pooler
def test_a_label_names_its_pooler(pooler) -> None:
    assert parse_pooler(pooler.label) == pooler
    assert parse_pooler(pooler.label).label == pooler.label


def test_every_kind_is_in_the_contract() -> None:
    assert {pooler.kind for pooler in REFERENCE} | {"none"} == set(POOLERS)


@pytest.mark.parametrize(
    ("text", "pooler"),
    [
        ("quantile:0.50", Quantile(0.5)),
        (" mean ", Mean()),
        ("mean@all", Mean()),
        ("token_ids:7+5+7", TokenIds((5, 7))),
        ("quantiles:0.25+0.75", Quantiles((0.25, 0.75))),
        ("span:4-9", Span(4, 9)),
        (f"quantile:{1 / 3}", Quantile(1 / 3)),
        ("index:-1@text", Index(-1, over="text")),
    ],
)
def test_other_spellings_are_read(text, pooler) -> None:
    assert parse_pooler(text) == pooler


def test_one_or_many_are_taken_and_doubles_dropped() -> None:
    assert as_poolers("mean,last") == (Mean(), Last())
    assert as_poolers(["last", Mean(), "mean"]) == (Last(), Mean())
    assert as_poolers(Quantile(0.5)) == (Quantile(0.5),)


def test_half_precision_is_summed_in_single() -> None:
    hidden = torch.full((1, 4000, 2), 40.0, dtype=torch.float16)
    mask = torch.ones(1, 4000, dtype=torch.bool)
    assert Sum()(hidden, mask).tolist() == [[160000.0, 160000.0]]  # 65504 is the largest float16
    assert Mean()(hidden, mask).dtype is torch.float32
    assert Last()(hidden, mask).dtype is torch.float32


def test_heads_are_laid_side_by_side() -> None:
    hidden = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(Last()(hidden, torch.ones(2, 3, dtype=torch.bool)), hidden[:, -1].flatten(1))


def test_a_span_stays_in_the_first_text_of_a_pair() -> None:
    hidden = torch.arange(6.0).reshape(1, 6, 1)
    offsets = np.array([[[-1, -1], [0, 2], [2, 4], [-1, -1], [0, 2], [2, 4]]])
    context = TokenRows(np.ones((1, 6), dtype=bool), offsets=offsets)
    assert Span(2, 4)(hidden, torch.ones(1, 6, dtype=torch.bool), context).item() == 2.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("men", "Did you mean 'mean'"),
        ("quantile", "written like this: quantile:0.5"),
        ("quantile:1.5", "from 0 (first token) to 1 (last token), got 1.5"),
        ("quantile:nan", "from 0 (first token) to 1"),
        ("last_k:0", "at least 1, got 0"),
        ("mean:3", "written like this: mean"),
        ("index:two", "written like this: index:0"),
        ("span:9-4", "end after its start, got 9-4"),
        ("span:words:1-2", "written like this: span:chars:4-9"),
        ("token_ids:", "written like this: token_ids:5+7"),
        ("quantiles:0.5:median", "unknown pooler.reduce 'median'"),
        ("mean@texts", "after @ stands 'text' or 'all'"),
    ],
)
def test_a_wrong_label_is_explained(text, message) -> None:
    with pytest.raises(UserError) as error:
        parse_pooler(text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Index(1.5), "pooler.index must be a whole number, got 1.5"),
        (lambda: TokenIds(()), "at least one token id"),
        (lambda: TokenIds((-3,)), "token ids are 0 or larger, got -3"),
        (lambda: Span(3), "a start and an end"),
        (lambda: Span(unit="tokens"), "span:tokens:2-5"),
        (lambda: Span(1, 2, "words"), "unknown pooler.unit 'words'"),
        (lambda: Quantiles(()), "at least one quantile"),
        (lambda: Mean(over="words"), "unknown pooler.over 'words'"),
        (lambda: as_poolers([]), "no pooler was named"),
        (lambda: as_poolers([3]), "got int: 3"),
    ],
)
def test_a_wrong_value_is_explained(make, message) -> None:
    with pytest.raises(UserError) as error:
        make()
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("pooler", "message"),
    [
        (Index(5), "pooler index:5: text 10 has 3 tokens, so no token 5."),
        (Index(-4), "pooler index:-4: text 10 has 3 tokens, so no token -4."),
        (TokenIds((8,)), "pooler token_ids:8: text 10 holds none of these token ids."),
        (Span(6, 8), "pooler span:chars:6-8: no token of text 10 lies in its span (was the text cut?)."),
        (Span(4, 6, "tokens"), "pooler span:tokens:4-6: text 10 has no tokens from 4 on."),
    ],
)
def test_a_text_without_the_token_is_named(pooler, message) -> None:
    hidden, mask, context = batch([1, 0], "right", 0.0)
    named = TokenRows(context.mask, context.ids, context.special, context.offsets, context.spans, np.array([9, 10]))
    with pytest.raises(UserError) as error:
        pooler(hidden, mask, named)
    assert str(error.value) == message


@pytest.mark.parametrize("pooler", [Span(), Span(0, 2), TokenIds((5,)), Mean(over="text")], ids=lambda p: p.label)
def test_what_a_pooler_needs_besides_the_mask_is_said(pooler) -> None:
    with pytest.raises(UserError, match=pooler.label.split("@")[0]):
        pooler(torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.bool))
