"""Pairs of prompts: the bundled ones say what they claim, files are read, what is wrong is told."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from layerwise.data.pairs.bundled import BUNDLED, generate
from layerwise.data.pairs.config import PairsConfig
from layerwise.data.pairs.load import load_pairs
from layerwise.data.pairs.pairs import PromptPairs
from layerwise.errors import UserError


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_pairs_differ_and_name_their_parts(name: str) -> None:
    pairs = generate(name)
    assert len(pairs) >= 90
    assert len(set(zip(pairs.clean, pairs.corrupted, strict=True))) == len(pairs)
    for row in range(len(pairs)):
        assert pairs.clean[row] != pairs.corrupted[row]
        assert pairs.answers[row].startswith(" ")
        for text, parts in ((pairs.clean[row], pairs.parts[row]), (pairs.corrupted[row], pairs.corrupted_parts[row])):
            assert all(text[start:end].strip() == text[start:end] for start, end in parts.values())
    assert pairs.digest() == generate(name).digest()
    assert pairs.reversed().reversed().digest() == pairs.digest() != pairs.reversed().digest()


def test_the_indirect_object_is_the_name_that_stands_once() -> None:
    pairs = generate("ioi")
    for text, answer, other in zip(pairs.clean, pairs.answers, pairs.corrupted_answers, strict=True):
        assert text.count(answer.strip()) == 1
        assert text.count(other.strip()) == 2


def test_sums_are_right() -> None:
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    for text, answer in zip(generate("arithmetic").clean, generate("arithmetic").answers, strict=True):
        a, _, b, _, c, _ = text.rpartition(". ")[2].split()
        assert words.index(a) + words.index(b) + words.index(c) == words.index(answer.strip())


def test_facts_and_agreement() -> None:
    facts = dict(zip(generate("facts").clean, generate("facts").answers, strict=True))
    assert facts["The city of Munich is in the country of"] == " Germany"
    agreement = generate("agreement")
    row = agreement.clean.index("The teachers near the nurse")
    assert (agreement.answers[row], agreement.corrupted[row]) == (" are", "The teacher near the nurse")


def test_limits_draw_with_a_seed() -> None:
    few = load_pairs(PairsConfig("ioi", limit=5, seed=1))
    assert len(few) == 5
    assert few.digest() == load_pairs(PairsConfig("ioi", limit=5, seed=1)).digest()
    assert few.digest() != load_pairs(PairsConfig("ioi", limit=5, seed=2)).digest()
    assert len(load_pairs(PairsConfig("ioi", limit=None))) == len(generate("ioi"))


@pytest.mark.parametrize("ending", ["csv", "jsonl", "json", "parquet"])
def test_a_table_of_ones_own(tmp_path, ending: str) -> None:
    parts = [{"subject": "cat"}, {"subject": "dog"}]
    frame = pd.DataFrame({
        "clean": ["the cat is", "the dog is"], "corrupted": ["the cats are", "the dogs are"], "answer": [" here"] * 2,
        "corrupted_answer": [" there"] * 2, "parts": [json.dumps(part) for part in parts],
        "corrupted_parts": [json.dumps({"subject": "cats"}), json.dumps({"subject": "dogs"})],
    })  # fmt: skip
    path = tmp_path / f"mine.{ending}"
    if ending == "csv":
        frame.to_csv(path, index=False)
    elif ending == "parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=ending == "jsonl")
    pairs = load_pairs(PairsConfig(str(path)))
    assert pairs.clean == ("the cat is", "the dog is")
    assert pairs.parts[0] == {"subject": (4, 7)}
    assert pairs.corrupted_parts[1] == {"subject": (4, 8)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": (" a",)}, "both prompts have the answer"),
        ({"clean": (" ",)}, "clean is empty"),
        ({"parts": ({"x": (0, 99)},), "corrupted_parts": ({"x": (0, 1)},)}, "characters 0 to 99"),
        ({"parts": ({"x": (0, 1)},)}, "parts of the same names"),
        ({"corrupted": ("one", "two")}, "1 clean prompts but 2 corrupted"),
    ],
)
def test_pairs_that_are_none(change: dict, message: str) -> None:
    good = {"clean": ("one",), "corrupted": ("two",), "answers": (" b",), "corrupted_answers": (" a",)}
    with pytest.raises(UserError, match=message):
        PromptPairs("mine", **{**good, **change})


@pytest.mark.parametrize(
    ("name", "message"),
    [("oio", "Did you mean 'ioi'"), ("none.csv", "no file"), ("", "is empty")],
)
def test_names_that_mean_no_pairs(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_pairs(PairsConfig(name))


def test_files_without_a_column_or_of_another_kind(tmp_path) -> None:
    pd.DataFrame({"clean": ["a"], "corupted": ["b"]}).to_csv(tmp_path / "odd.csv", index=False)
    with pytest.raises(UserError, match="Did you mean 'corupted'"):
        load_pairs(PairsConfig(str(tmp_path / "odd.csv")))
    (tmp_path / "odd.txt").write_text("a")
    with pytest.raises(UserError, match="pairs are read from"):
        load_pairs(PairsConfig(str(tmp_path / "odd.txt")))
    with pytest.raises(UserError, match="at least 1"):
        PairsConfig(limit=0)
