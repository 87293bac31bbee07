"""Causal models, what is drawn from them, and the counterfactuals they answer."""

from __future__ import annotations

from collections import Counter

import pytest

from layerwise.errors import UserError
from layerwise.interventions.alignment.bundled import BUNDLED, find_task
from layerwise.interventions.alignment.causal_model import CausalModel, Variable
from layerwise.interventions.alignment.counterfactuals import draw_counterfactuals, draw_examples
from layerwise.interventions.alignment.sampling import Sampler, equivalence_classes, has, on_live_path


@pytest.fixture
def total() -> CausalModel:
    return CausalModel(
        [
            *(Variable(name, values=range(4)) for name in "xyz"),
            Variable("x+y", ("x", "y"), lambda x, y: x + y),
            Variable("even", ("x+y", "z"), lambda part, z: (part + z) % 2 == 0),
        ]
    )


@pytest.fixture
def conjunction() -> CausalModel:
    both = (False, True)
    return CausalModel(
        [
            Variable("p", values=both),
            Variable("q", values=both),
            Variable("not q", ("q",), lambda q: not q),
            Variable("and", ("p", "not q"), lambda p, not_q: p and not_q),
        ]
    )


def test_it_runs_in_the_order_of_causes_and_holds_what_is_given(total: CausalModel) -> None:
    assert total.run({"x": 1, "y": 2, "z": 3}) == {"x": 1, "y": 2, "z": 3, "x+y": 3, "even": True}
    assert total.run({"x": 1, "y": 2, "z": 3}, {"x+y": 4})["even"] is False
    assert (total.inputs, total.inner, total.outputs) == (("x", "y", "z"), ("x+y",), ("even",))
    assert total.steps == {"x": 0, "y": 0, "z": 0, "x+y": 1, "even": 2}


def test_an_interchange_takes_the_value_that_the_sources_inputs_give(total: CausalModel) -> None:
    found = total.interchange({"x": 1, "y": 2, "z": 3}, {"x+y": {"x": 2, "y": 2, "z": 0}})
    assert (found["x+y"], found["even"]) == (4, False)
    assert (found["x"], found["z"]) == (1, 3)


def test_only_what_would_change_the_answer_is_on_a_live_path(conjunction: CausalModel) -> None:
    assert conjunction.live_paths(conjunction.run({"p": True, "q": False})) == [("q", "not q", "and"), ("p", "and")]
    assert conjunction.live_paths(conjunction.run({"p": False, "q": False})) == [("p", "and")]
    assert conjunction.live_paths(conjunction.run({"p": False, "q": True})) == []
    matters = on_live_path(conjunction, "not q")
    assert matters(conjunction.run({"p": True, "q": True}))
    assert not matters(conjunction.run({"p": False, "q": True}))


def test_it_prints_a_line_for_each_variable(total: CausalModel) -> None:
    lines = str(total).splitlines()
    assert len(lines) == 5
    assert lines[0] == "0  x     input  of 0, 1, 2, 3"
    assert lines[-1] == "2  even  ← x+y, z"


def test_classes_hold_every_cause_of_a_value(total: CausalModel, conjunction: CausalModel) -> None:
    classes = equivalence_classes(total, "x+y")
    assert classes[1] == [(0, 1), (1, 0)]
    assert sum(map(len, classes.values())) == 16
    assert equivalence_classes(conjunction, "and")[True] == [(True, True)]


def test_balanced_draws_give_rare_values_as_often(conjunction: CausalModel) -> None:
    balanced = Sampler(conjunction, 0, balanced="and")
    share = sum(balanced.draw()["and"] for _ in range(400)) / 400
    assert 0.42 < share < 0.58  # a quarter of all inputs
    assert all(setting["p"] for setting in draw_examples(conjunction, 20, 1, where=has(p=True)))


def test_counterfactuals_are_what_the_causal_model_answers(total: CausalModel) -> None:
    pairs = draw_counterfactuals(total, ["x+y"], 60, 0)
    assert sum(pairs.changed) == 30
    for base, source, answer in zip(pairs.base, pairs.sources["x+y"], pairs.answers, strict=True):
        assert answer == ((source["x+y"] + base["z"]) % 2 == 0)
    assert draw_counterfactuals(total, ["x+y"], 60, 0).base == pairs.base
    assert pairs.select([3, 1]).answers == [pairs.answers[3], pairs.answers[1]]


def test_several_variables_are_exchanged_alone_and_together() -> None:
    task = find_task("price_tagging")
    pairs = draw_counterfactuals(task.causal, ["above", "below"], 30, 0, where=task.allowed)
    assert Counter(pairs.swapped) == {("above",): 10, ("below",): 10, ("above", "below"): 10}
    for number, swapped in enumerate(pairs.swapped):
        held = {name: pairs.sources[name][number][name] for name in swapped}
        kept = {name: held.get(name, pairs.base[number][name]) for name in ("above", "below")}
        assert pairs.answers[number] == ("yes" if kept["above"] and kept["below"] else "no")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ([Variable("a", values=(1,)), Variable("a", values=(1,))], "one name"),
        ([Variable("a", ("c",), lambda c: c)], "no variable"),
        ([Variable("a", ("b",), lambda b: b), Variable("b", ("a",), lambda a: a)], "circle"),
        ([Variable("a")], "neither values nor"),
        ([Variable("a", values=(1,)), Variable("b", ("a",))], "no mechanism"),
        ([Variable("a", values=(1,), step=3), Variable("b", ("a",), lambda a: a, step=1)], "before its cause"),
    ],
)
def test_what_is_no_causal_model(variables: list[Variable], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CausalModel(variables)


def test_what_cannot_be_drawn(total: CausalModel) -> None:
    with pytest.raises(UserError, match=r"no variable 'x\+z'.*x\+y"):
        draw_counterfactuals(total, ["x+z"], 2, 0)
    with pytest.raises(UserError, match="the answer itself"):
        draw_counterfactuals(total, ["even"], 2, 0)
    with pytest.raises(UserError, match="lets none through"):
        Sampler(total, 0, where=lambda setting: False).draw()
    with pytest.raises(UserError, match="the inputs lack z"):
        total.run({"x": 1, "y": 2})
    endless = CausalModel([Variable("a", draw=lambda r: r.random()), Variable("b", ("a",), lambda a: a > 0.5)])
    with pytest.raises(UserError, match="too many to list"):
        equivalence_classes(endless, "b")


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_tasks_draw_both_sides_and_answer_in_their_words(name: str) -> None:
    task = find_task(name)
    for late in (False, True):

        def wanted(setting: dict, late: bool = late) -> bool:
            return (task.allowed is None or task.allowed(setting)) and (
                task.held_out is None or task.held_out(setting) == late
            )

        pairs = draw_counterfactuals(task.causal, task.causal.inner[:1], 20, 0, where=wanted)
        assert 5 <= sum(pairs.changed) <= 15
        assert set(pairs.answers) <= set(task.answers)


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(UserError, match="price_tagging"):
        find_task("price_taging")
