"""A mechanism is tried on a model once, and a model that it cannot run on goes without."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from layerwise.models.tried import tried_once


def test_each_module_is_tried_once_and_once_for_each_of_its_kinds() -> None:
    asked: list[tuple[int, str]] = []

    def holds(model: Any) -> bool:
        asked.append((id(model.module), model.set_to))
        return bool(model.set_to == "eager")

    has, by_kind = tried_once(holds), tried_once(holds, kind=lambda model: model.set_to)
    first, second = nn.Identity(), nn.Identity()
    for module in (first, second, first):
        assert has(SimpleNamespace(module=module, set_to="eager"))
    assert has(SimpleNamespace(module=first, set_to="fused"))  # known already, whatever it is set to
    assert len(asked) == 2
    for set_to in ("eager", "fused", "eager"):
        assert by_kind(SimpleNamespace(module=first, set_to=set_to)) == (set_to == "eager")
    assert asked[2:] == [(id(first), "eager"), (id(first), "fused")]


@pytest.mark.parametrize("error", [KeyError("no such mask"), TypeError("unexpected argument"), NotImplementedError()])
def test_what_cannot_run_on_a_model_it_does_not_have(error: Exception) -> None:
    def breaks(model: Any) -> bool:
        raise error

    assert not tried_once(breaks)(SimpleNamespace(module=nn.Identity()))


def test_a_defect_is_not_taken_for_a_refusal() -> None:
    def fails(model: Any) -> bool:
        raise AssertionError

    with pytest.raises(AssertionError):
        tried_once(fails)(SimpleNamespace(module=nn.Identity()))
