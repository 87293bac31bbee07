from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy as np
import pytest

from layerwise.data.cleaning import clean
from layerwise.data.config import DatasetConfig
from layerwise.data.dataset import TextDataset
from layerwise.data.load import load_dataset
from layerwise.data.prepare import divide, prepare, tidy
from layerwise.errors import UserError

MESSY = TextDataset(
    "messy",
    ("  spaced ", "same", "same", "torn", "torn", "\t", "both", "both", "own"),
    np.array([0, 1, 1, 0, 1, 0, 1, 1, 0]), "classification", ("no", "yes"),
    split=np.array(["train"] * 6 + ["train", "test", "test"]),
    spans=np.array([[2, 8], [0, 4], [0, 4], [0, 4], [0, 4], [0, 1], [0, 4], [0, 4], [0, 3]]),
)  # fmt: skip


def test_cleaning_counts_everything_it_does():
    data, report = clean(MESSY)
    assert data.texts == ("spaced", "same", "both", "own")
    assert report.as_dict() == {
        "rows_before": 9, "stripped": 2, "empty": 1, "duplicates": 1, "across_splits": 1, "conflicting": 2, "rows_after": 4,
    }  # fmt: skip


def test_what_stands_in_two_splits_stays_in_the_test_part_and_spans_move_with_their_text():
    data, _ = clean(MESSY)
    assert data.split.tolist() == ["train", "train", "test", "test"]
    assert [text[a:b] for text, (a, b) in zip(data.texts, data.spans, strict=True)] == ["spaced", "same", "both", "own"]


def test_cleaning_the_clean_changes_nothing():
    data = load_dataset("cities")
    cleaned, report = clean(data)
    assert cleaned.digest() == data.digest()
    assert report.rows_before == report.rows_after


def test_texts_with_different_pairs_or_word_labels_are_told_apart():
    pairs = TextDataset("p", ("a", "a"), np.array([0, 1]), "classification", ("x", "y"), pairs=("b", "c"))
    assert len(clean(pairs)[0]) == 2
    tokens = TextDataset(
        "t", (" ab", "ab"), task="tokens", label_names=("x", "y"), token_labels=(((1, 3, 0),), ((0, 2, 1),))
    )
    assert clean(tokens)[1].conflicting == 2


def test_drawn_splits_have_the_wanted_shares_and_keep_groups_whole():
    data = divide(load_dataset("topics"), 0.2, 0.1, seed=0)
    shares = {name: (data.split == name).mean() for name in ("train", "validation", "test")}
    assert shares["test"] == pytest.approx(0.2, abs=0.03)
    assert shares["validation"] == pytest.approx(0.1, abs=0.03)
    assert all(len(set(data.split[data.groups == group])) == 1 for group in np.unique(data.groups))
    assert set(divide(load_dataset("topics"), 0.2, 0, seed=0).split) == {"train", "test"}


def test_given_splits_stay():
    assert divide(MESSY, 0.5, 0.3, 0) is MESSY


@pytest.mark.parametrize("sizes", [(1.0, 0.0), (0.6, 0.5), (-0.1, 0.2)])
def test_shares_that_leave_nothing_are_refused(sizes):
    with pytest.raises(UserError, match=r"shares that leave rows to train on"):
        divide(load_dataset("cities"), *sizes, 0)


REGRESSION = TextDataset("r", ("a", "b", "c", "d"), np.array([0.1, 1 / 3, np.pi, -7e-300]), "regression")
TOKENS = TextDataset(
    "t", ("ab c", "d"), task="tokens", label_names=("x", "y"), token_labels=(((0, 2, 0), (3, 4, 1)), ())
)
UNLABELLED = TextDataset(
    "u", ("line\nbreak", "e\u0301 \U0001f600 \u2028"), notes=("a note",), source="here", licence="MIT"
)


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    "data",
    [MESSY, REGRESSION, TOKENS, UNLABELLED, "full", "cities"],
    ids=["messy", "regression", "tokens", "unlabelled", "full", "cities"],
)
def test_what_is_written_comes_back_bit_for_bit(data, format, tmp_path, request):
    if data == "full":
        data = request.getfixturevalue("full")
    elif data == "cities":
        data = tidy(load_dataset("cities"))[0]
    card = prepare(data, tmp_path / "out", format)
    back = load_dataset(str(tmp_path / "out"))
    assert back.digest() == data.digest() == card["digest"]
    assert (back.name, back.notes, back.source, back.licence) == (data.name, data.notes, data.source, data.licence)


def test_the_card_says_what_a_person_wants_to_know(tmp_path):
    data, report = tidy(MESSY)
    card = prepare(data, tmp_path / "out", report=report)
    assert card["labels"] == {"train": {"no": 1, "yes": 1}, "test": {"no": 1, "yes": 1}}
    assert card["lengths"]["characters"] == {"min": 3, "median": 4.0, "mean": 4.25, "max": 6}
    assert json.loads((tmp_path / "out" / "card.json").read_text()) == card
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "| train | 2 | no 1, yes 1 |" in readme
    assert "- conflicting: 2" in readme
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "README.md",
        "card.json",
        "test.jsonl",
        "train.jsonl",
    ]
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_the_hubs_own_library_reads_the_folder(format, tmp_path):
    prepare(tidy(load_dataset("cities"))[0], tmp_path / "out", format)
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(part) for name, part in loaded.items()} == {"train": 528, "validation": 68, "test": 144}
    assert loaded["test"][0]["label_name"] in ("true", "false")


def test_one_split_or_a_few_rows_of_a_prepared_folder(tmp_path):
    prepare(tidy(load_dataset("cities"))[0], tmp_path / "out")
    assert set(load_dataset(DatasetConfig(str(tmp_path / "out"), split="test")).split) == {"test"}
    assert len(load_dataset(DatasetConfig(str(tmp_path / "out"), limit=50))) == 50
    with pytest.raises(UserError, match=r"unknown split 'tset'"):
        load_dataset(DatasetConfig(str(tmp_path / "out"), split="tset"))


def test_nothing_is_overwritten_unless_forced_and_nothing_foreign_ever(tmp_path):
    out = tmp_path / "out"
    card = prepare(MESSY, out)
    written = (out / "train.jsonl").stat().st_mtime_ns
    assert prepare(MESSY, out) == card
    assert (out / "train.jsonl").stat().st_mtime_ns == written
    with pytest.raises(
        UserError, match=r"holds another prepared dataset. Name another folder, or overwrite it with --force"
    ):
        prepare(REGRESSION, out)
    prepare(REGRESSION, out, force=True)
    assert load_dataset(str(out)).digest() == REGRESSION.digest()
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"`prepare` did not write, and is left alone"):
        prepare(MESSY, foreign, force=True)
    with pytest.raises(UserError, match=r"is a file; name a folder"):
        prepare(MESSY, foreign / "thesis.txt", force=True)


def test_an_error_while_writing_leaves_the_old_folder_as_it_was(tmp_path, monkeypatch):
    out = tmp_path / "out"
    prepare(MESSY, out)
    lost = TextDataset("lost", ("a", "\ud800"), np.array([0, 1]), "classification", ("x", "y"))
    with pytest.raises(UnicodeEncodeError):
        prepare(lost, out, force=True)
    assert load_dataset(str(out)).digest() == MESSY.digest()
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_prepared_folder_that_was_changed_or_damaged_is_refused(tmp_path):
    out = tmp_path / "out"
    prepare(MESSY, out)
    train = out / "train.jsonl"
    text = train.read_text()
    train.write_text(text.replace("same", "sane"))
    with pytest.raises(UserError, match=r"was changed after it was written"):
        load_dataset(str(out))
    train.write_text(text.rsplit("\n", 2)[0])
    with pytest.raises(UserError, match=r"is damaged: its files do not fit its card"):
        load_dataset(str(out))
    train.unlink()
    with pytest.raises(UserError, match=r"no file"):
        load_dataset(str(out))
    (out / "card.json").write_text('{"format": "layerwise dataset 1",')
    with pytest.raises(UserError, match=r"card.json is damaged"):
        load_dataset(str(out))


def test_cleaning_that_leaves_one_class_or_nothing_says_so():
    torn = TextDataset("torn", ("a", "a", "b"), np.array([0, 1, 0]), "classification", ("x", "y"))
    with pytest.raises(UserError, match=r"only one class"):
        tidy(torn)
    with pytest.raises(UserError, match=r"cleaning leaves no row of 2"):
        tidy(torn.select([0, 1]))


def test_rows_without_text_or_label_are_dropped_and_counted_when_asked(write):
    rows = [
        {"text": "a a", "label": 0},
        {"text": None, "label": 1},
        {"text": "c c", "label": None},
        {"text": "", "label": 1},
        {"text": "e e", "label": 1},
    ]
    data = load_dataset(write("holes.jsonl", rows), drop_incomplete=True)
    assert data.texts == ("a a", "e e")
    assert data.notes == ("3 rows without a text or label were dropped.",)


def test_an_unknown_format_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"unknown format 'csv'"):
        prepare(MESSY, tmp_path / "out", "csv")
