"""Training and judging on a tiny language model: the quick way equals the plain one, together equals one by one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import build

from layerwise.activations.store import Store
from layerwise.errors import UserError
from layerwise.interventions.alignment.align import Aligned, Alignment
from layerwise.interventions.alignment.config import Alignment as Settings
from layerwise.interventions.alignment.config import Training
from layerwise.interventions.alignment.counterfactuals import Counterfactuals, draw_counterfactuals
from layerwise.interventions.alignment.grid import Means, Side
from layerwise.interventions.alignment.heat import token_shares
from layerwise.interventions.alignment.hypotheses import Hypothesis, plan_of
from layerwise.interventions.alignment.interchange_training import train_with_interchanges
from layerwise.interventions.alignment.known import answers_right, draw_known
from layerwise.interventions.alignment.stacked import Stack
from layerwise.interventions.alignment.tasks import TextTask
from layerwise.interventions.patching import last_columns
from layerwise.interventions.saving import load, save
from layerwise.models.model import LanguageModel
from layerwise.models.readout import Readout

LARGER, ONE = "a > b", "a is one"
FEW = Training(epochs=2, batch_size=4, learning_rate=0.05)


@pytest.fixture
def pairs(larger: TextTask) -> Counterfactuals:
    return draw_counterfactuals(larger.causal, [LARGER], 12, 0)


def found(alignment: Alignment, hypotheses: list[Hypothesis], pairs: Counterfactuals) -> list[Aligned]:
    results = dict(alignment.search(hypotheses, pairs, pairs))
    return [results[number] for number in range(len(hypotheses))]


def at(*places: tuple[str, str], variables: tuple[str, ...] = (LARGER,), joined: bool = False) -> Hypothesis:
    return Hypothesis(variables, places, joined)


PLACES = {
    "residual": [("resid_post.0", "last")],
    "last residual": [("resid_post.1", "part:b")],
    "before": [("resid_pre.1", "part:a")],
    "attention": [("attn_out.1", "3")],
    "head": [("z.0.2", "part:a")],
    "mlp": [("mlp_out.0", "-2")],
    "two layers": [("resid_post.0", "part:a"), ("mlp_out.1", "last")],
}


@pytest.mark.parametrize("memory", [2**30, 0], ids=["kept", "made again"])
@pytest.mark.parametrize("method", ["low_rank", "rotation", "boundless", "rotated_mask", "mask", "interchange"])
@pytest.mark.parametrize("name", PLACES)
def test_restarting_gives_the_scores_of_the_plan_on_the_whole_model(
    speaking: LanguageModel, larger: TextTask, pairs: Counterfactuals, name: str, method: Any, memory: int
) -> None:
    alignment = Alignment(speaking, larger, method, size=2, memory=memory)
    plans = alignment.plans([at(*PLACES[name])], pairs, method, 0)
    side = Side.of(speaking, larger, pairs, plans, Means(64, memory))
    stack = Stack(plans)
    layer = min(side.bases.start(unit.place.site)[1] for unit in plans[0].units)
    rows = torch.tensor([5, 0, 7])
    quick = side.bases.scores(stack, side.cells(stack).rows(rows), rows, layer)[0]
    base, source = (
        larger.encode(speaking, [settings[row] for row in rows]) for settings in (pairs.base, pairs.sources[LARGER])
    )
    with torch.no_grad():
        logits = plans[0](base, {LARGER: source}).logits
    plain = logits[torch.arange(3), last_columns(base.batch)][:, larger.candidates(speaking)]
    torch.testing.assert_close(quick, plain, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("method", ["low_rank", "boundless", "mask"])
def test_rotations_trained_together_are_those_trained_alone(
    speaking: LanguageModel, larger: TextTask, pairs: Counterfactuals, method: Any
) -> None:
    grid = [at((site, positions)) for site in ("resid_post.0", "attn_out.1") for positions in ("last", "-2", "part:a")]
    settings: dict[str, Any] = {"method": method, "size": 3, "training": FEW}
    together = found(Alignment(speaking, larger, token_budget=10**6, **settings), grid, pairs)
    alone = found(Alignment(speaking, larger, token_budget=1, **settings), grid, pairs)
    for one, other in zip(together, alone, strict=True):
        assert one.hypothesis == other.hypothesis
        np.testing.assert_allclose(one.losses, other.losses, atol=1e-4)
        for mine, its in zip((*one.bases, *one.shares), (*other.bases, *other.shares), strict=True):
            np.testing.assert_allclose(mine, its, atol=2e-3)


def test_training_lowers_the_loss_leaves_the_model_and_shows_in_the_plan(
    speaking: LanguageModel, larger: TextTask, pairs: Counterfactuals, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in speaking.module.state_dict().items()}
    training = Training(epochs=20, batch_size=6, learning_rate=0.05)
    one = found(Alignment(speaking, larger, "low_rank", 4, training), [at(("resid_post.0", "last"))], pairs)[0]
    assert one.losses[-2:].mean() < one.losses[:2].mean()
    assert all(torch.equal(value, before[name]) for name, value in speaking.module.state_dict().items())
    assert all(parameter.requires_grad for parameter in speaking.module.parameters())
    save(one.plan, tmp_path / "plan")
    again = load(tmp_path / "plan", speaking)
    base, source = (larger.encode(speaking, settings) for settings in (pairs.base, pairs.sources[LARGER]))
    with torch.no_grad():
        logits = again(base, {LARGER: source}).logits
    answers = logits[torch.arange(len(pairs)), last_columns(base.batch)][:, larger.candidates(speaking)].argmax(1)
    assert np.array_equal(
        [larger.answers[answer] for answer in answers], np.where(one.right, pairs.answers, ~np.array(pairs.answers))
    )


def test_accumulated_batches_make_the_step_of_a_large_one(
    speaking: LanguageModel, larger: TextTask, pairs: Counterfactuals
) -> None:
    bases = []
    for batch, accumulate in ((12, 1), (4, 3)):
        training = Training(epochs=3, batch_size=batch, accumulate=accumulate, learning_rate=0.05)
        bases += found(Alignment(speaking, larger, "low_rank", 2, training), [at(("resid_post.0", "last"))], pairs)[
            0
        ].bases
    np.testing.assert_allclose(bases[0], bases[1], atol=1e-4)


def test_sources_are_the_same_from_the_store_and_run_no_model_the_second_time(
    speaking: LanguageModel, larger: TextTask, pairs: Counterfactuals, tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")
    grid = [at((f"resid_post.{layer}", positions)) for layer in (0, 1) for positions in ("last", "first", "-3")]
    plans = Alignment(speaking, larger).plans(grid, pairs, "low_rank", 0)
    sides = [Side.of(speaking, larger, pairs, plans, Means(64, 0, kept)) for kept in (None, store, store)]
    assert len(sides[0].sources[LARGER]) == 6
    for key, values in sides[0].sources[LARGER].items():
        for side in sides[1:]:
            torch.testing.assert_close(side.sources[LARGER][key], values, atol=1e-5, rtol=1e-5)
    forwards: list[int] = []
    handle = speaking.module.model.register_forward_pre_hook(lambda module, args: forwards.append(1))
    from layerwise.interventions.alignment.stored import collect_sources

    wanted = [(unit.read, str(unit.step.positions)) for plan in plans for unit in plan.units]
    collect_sources(speaking, larger, pairs.sources[LARGER], wanted, token_budget=64, store=store)
    handle.remove()
    assert not forwards


def test_two_places_act_together_and_alone(speaking: LanguageModel, larger: TextTask, pairs: Counterfactuals) -> None:
    places = (("resid_post.0", "part:a"), ("resid_post.0", "last"))
    both = found(Alignment(speaking, larger, "low_rank", 4, FEW), [at(*places)], pairs)[0]
    assert len(both.alone) == 2
    assert len(both.bases) == 2
    first = Alignment(speaking, larger, "low_rank", 4).plans([at(places[0])], pairs, "low_rank", 0)
    own = next(iter(both.plan.operations.values())).state_dict()
    next(iter(first[0].operations.values())).load_state_dict(own)
    judged = dict(Alignment(speaking, larger, "low_rank", 4).judge([at(places[0])], first, pairs))
    assert np.array_equal(judged[0].right, both.alone[0])


def test_variables_share_a_rotation_and_each_is_exchanged_from_its_own_source(
    speaking: LanguageModel, larger: TextTask
) -> None:
    pairs = draw_counterfactuals(larger.causal, [LARGER, ONE], 9, 0, changed=None)
    hypothesis = at(("resid_post.0", "last"), variables=(LARGER, ONE))
    alignment = Alignment(speaking, larger, "rotation", 5, FEW)
    plan = alignment.plans([hypothesis], pairs, "rotation", 0)[0]
    assert len(plan.operations) == 1
    one = found(alignment, [hypothesis], pairs)[0]
    base, *sources = (
        larger.encode(speaking, settings) for settings in (pairs.base, pairs.sources[LARGER], pairs.sources[ONE])
    )
    chosen = {
        f"place0_variable{number}": [
            list(range(5 * number, 5 * number + 5)) if name in there else [] for there in pairs.swapped
        ]
        for number, name in enumerate((LARGER, ONE))
    }
    with torch.no_grad():
        logits = one.plan(base, dict(zip((LARGER, ONE), sources, strict=True)), subspaces=chosen).logits
    scores = logits[torch.arange(9), last_columns(base.batch)][:, larger.candidates(speaking)]
    right = [larger.answers[number] == answer for number, answer in zip(scores.argmax(1), pairs.answers, strict=True)]
    assert right == one.right.tolist()


def test_joined_tokens_have_one_rotation_and_it_says_which_it_reads(
    speaking: LanguageModel, larger: TextTask, pairs: Counterfactuals
) -> None:
    hypothesis = at(("resid_post.0", "-3,-2,-1"), joined=True)
    one = found(Alignment(speaking, larger, "low_rank", 2, FEW), [hypothesis], pairs)[0]
    assert one.bases[0].shape == (3 * 16, 2)
    shares = token_shares(one.bases[0], 3, 1, 2)
    np.testing.assert_allclose(shares.sum(0), 1)
    only = np.zeros((48, 2), dtype=np.float32)
    only[16, 0] = only[40, 1] = 1
    np.testing.assert_allclose(token_shares(only, 3, 2, 1), [[0, 0], [1, 0], [0, 1]])
    with pytest.raises(UserError, match="no 5 tokens"):
        token_shares(only, 5, 1, 2)


@pytest.fixture
def own_copy(speaking: LanguageModel) -> Iterator[LanguageModel]:
    """The model, put back after it was trained."""
    before = {name: value.clone() for name, value in speaking.module.state_dict().items()}
    yield speaking
    speaking.module.load_state_dict(before)


def test_interchange_training_changes_the_model_until_the_numbers_hold_the_variable(
    own_copy: LanguageModel, larger: TextTask, pairs: Counterfactuals
) -> None:
    hypothesis = at(("resid_post.0", "last"))
    alignment = Alignment(own_copy, larger, "interchange", 8)
    before = dict(alignment.judge([hypothesis], alignment.plans([hypothesis], pairs, "interchange", 0), pairs))[0]
    training = Training(epochs=60, batch_size=12, learning_rate=3e-3)
    losses = train_with_interchanges(own_copy, larger, plan_of(hypothesis, "interchange", 8, 0), pairs, training)
    after = dict(alignment.judge([hypothesis], alignment.plans([hypothesis], pairs, "interchange", 0), pairs))[0]
    assert losses[-1] < 0.5 * losses[0]
    assert after.accuracy > before.accuracy
    assert answers_right(own_copy, larger, pairs.base).float().mean() > 0.9
    assert after.control is None


def test_known_pairs_are_those_the_model_answers(speaking: LanguageModel, larger: TextTask) -> None:
    drawn = draw_known(speaking, larger, [LARGER], 12, 0, known_only=False)
    assert len(drawn.pairs) == 12
    settings = [*drawn.pairs.base, *drawn.pairs.sources[LARGER]]
    assert drawn.accuracy == pytest.approx(float(answers_right(speaking, larger, settings).float().mean()))
    known = draw_known(speaking, larger, [LARGER], 4, 0) if drawn.accuracy > 0.6 else None
    if known is not None:
        assert answers_right(speaking, larger, known.pairs.base).all()


def test_a_loss_of_ones_own(speaking: LanguageModel, larger: TextTask, pairs: Counterfactuals, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "def margin(scores, right):\n    own = scores.gather(1, right[:, None])[:, 0]\n"
        "    return (1 - 2 * own + scores.sum(1)).clamp(min=0)\n"
    )
    own = Training(epochs=1, batch_size=12, loss=f"{path}:margin")
    one = found(Alignment(speaking, larger, "low_rank", 1, own), [at(("resid_post.0", "last"))], pairs)[0]
    plain = found(Alignment(speaking, larger, "low_rank", 1, Training(1, 12)), [at(("resid_post.0", "last"))], pairs)[0]
    assert one.losses[0] != pytest.approx(plain.losses[0])


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "mamba"])
def test_the_head_gives_some_tokens_logits_as_all_of_them(name: str) -> None:
    readout = Readout.of(LanguageModel(build(name)))
    width = readout.head.weight.shape[1]  # type: ignore[union-attr]
    states, tokens = torch.randn(3, width), torch.tensor([4, 1, 7])
    with torch.no_grad():
        torch.testing.assert_close(readout.logits(states, tokens), readout.logits(states)[:, tokens])


def test_what_cannot_be_aligned(speaking: LanguageModel, larger: TextTask, pairs: Counterfactuals) -> None:
    with pytest.raises(UserError, match="beyond the 16 numbers"):
        found(Alignment(speaking, larger, "rotation", 17), [at(("resid_post.0", "last"))], pairs)
    with pytest.raises(UserError, match="no rotation of rank 17"):
        found(Alignment(speaking, larger, "low_rank", 17), [at(("resid_post.0", "last"))], pairs)
    with pytest.raises(UserError, match="resid_post"):
        found(Alignment(speaking, larger), [at(("resid_post.9", "last"))], pairs)
    with pytest.raises(UserError, match="beyond text"):
        found(Alignment(speaking, larger), [at(("resid_post.0", "40"))], pairs)
    with pytest.raises(UserError, match="share a basis only with"):
        Settings(method="mask", together=True)
    with pytest.raises(UserError, match=r"training.loss"):
        found(
            Alignment(speaking, larger, training=Training(loss="nowhere.py:x")), [at(("resid_post.0", "last"))], pairs
        )
