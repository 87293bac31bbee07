"""Positions in words: characters and named parts of prompts, found in a real tokenizer's tokens."""

from __future__ import annotations

import pytest
import torch

from layerwise.errors import UserError
from layerwise.interventions.cells import find_cells
from layerwise.interventions.intervened import Intervened
from layerwise.interventions.plan import Plan
from layerwise.interventions.positions import Positions
from layerwise.interventions.prompts import as_prompts, prompts

TEXTS = ["the city of paris is in france", "rome is not larger than the city of madrid"]
PARTS = [{"subject": "city of paris", "place": (24, 30)}, {"subject": "rome", "place": "madrid"}]


@pytest.fixture(scope="module")
def sides(speaking):
    return [prompts(speaking, TEXTS, parts=PARTS, side=side) for side in ("right", "left")]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("all", [list(range(8)), list(range(10))]),
        ("first", [[0], [0]]),
        ("last", [[7], [9]]),
        ("2", [[2], [2]]),
        ("-2", [[6], [8]]),
        ("1-3", [[1, 2, 3], [1, 2, 3]]),
        ("5,0,2-3", [[5, 0, 2, 3], [5, 0, 2, 3]]),
        ("chars:4-9", [[2], [2, 3]]),
        ("part:subject", [[2, 3, 4], [1]]),
        ("part:subject:last", [[4], [1]]),
        ("part:place:first", [[7], [9]]),
    ],
)
def test_positions_are_the_same_tokens_on_either_side_of_the_padding(
    sides, text: str, numbers: list[list[int]]
) -> None:
    for side, there in zip(("right", "left"), sides, strict=True):
        cells = find_cells(Positions(text), there, "a step")
        shift = [2, 0] if side == "left" else [0, 0]
        assert cells.counts == [len(row) for row in numbers]
        assert cells.column.tolist() == [number + shift[index] for index, row in enumerate(numbers) for number in row]
        assert cells.example.tolist() == [index for index, row in enumerate(numbers) for _ in row]


def test_texts_are_prompts_and_parts_guide_a_plan(speaking, sides) -> None:
    step = "operation: zero, sites: embed, positions: 'part:subject'"
    intervened = Intervened(speaking, Plan.read(f"{{steps: [{{{step}}}, {{operation: collect, sites: embed}}]}}"))
    with torch.no_grad():
        values = intervened(sides[0]).collected["collect_1"]["embed"].values
    assert (values.abs().sum(1) == 0).nonzero()[:, 0].tolist() == [2, 3, 4, 9]
    plain = Intervened(speaking, Plan.read("{steps: [{operation: zero, sites: embed, positions: last}]}"))
    with torch.no_grad():
        assert torch.equal(plain(TEXTS).logits, plain(as_prompts(speaking, TEXTS)).logits)
    made = plain.generate(TEXTS, max_new_tokens=3, min_new_tokens=3, do_sample=False).output
    assert made.shape == (2, 13)


def test_mistakes_are_said(speaking, sides) -> None:
    for text, message in (
        ("part:object", r"text 0 has no part 'object'.*\nIt has: subject, place"),
        ("chars:40-45", "no token of text 0 lies there"),
        ("8", "position 8 is beyond text 0, which has 8 tokens"),
    ):
        with pytest.raises(UserError, match=message):
            find_cells(Positions(text), sides[0], "a step")
    with pytest.raises(UserError, match=r"Name them: .* prompts"):
        find_cells(Positions("part:x"), as_prompts(speaking, TEXTS), "a step")
    with pytest.raises(UserError, match="stands 2 times"):
        prompts(speaking, ["the city the"], parts=[{"a": "the"}])
    with pytest.raises(UserError, match="characters 3 to 99 of a text of 12"):
        prompts(speaking, ["the city the"], parts=[{"a": (3, 99)}])
    with pytest.raises(UserError, match="2 texts, but parts of 1"):
        prompts(speaking, TEXTS, parts=[{}])
    with pytest.raises(UserError, match="a run takes a list of texts"):
        as_prompts(speaking, "one text")
