from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from layerwise.data.build import from_frame
from layerwise.data.config import ColumnsConfig, DatasetConfig, LabelsConfig
from layerwise.data.load import load_dataset

from .conftest import ROWS

TEXTS = tuple(row["text"] for row in ROWS)


def is_rows(data) -> bool:
    return data.texts == TEXTS and data.labels.tolist() == [0, 1] * 4 and data.label_names == ("no", "yes")


SHAPES = {
    "rows.json": ROWS,
    "columns.json": {"text": list(TEXTS), "label": [row["label"] for row in ROWS]},
    "by_index.json": {name: {str(i): ROWS[i][name] for i in (7, 6, 5, 4, 3, 2, 1, 0)} for name in ("text", "label")},
    "wrapped.json": {"name": "mine", "version": 2, "examples": ROWS},
    "lines.jsonl": ROWS,
    "lines_called.json": "\n".join(str(row).replace("'", '"') for row in ROWS) + "\n",
    "commas.csv": "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS),
    "semicolons.csv": "label;text\n" + "".join(f"{row['label']};{row['text']}\n" for row in ROWS),
    "quoted.csv": "text,label\r\n" + "".join(f'"{row["text"]}",{row["label"]}\r\n' for row in ROWS),
    "tabs.tsv": "text\tlabel\n" + "".join(f"{row['text']}\t{row['label']}\n" for row in ROWS),
    "headerless.tsv": "".join(f"{row['label']}\t{row['text']}\n" for row in ROWS),
    "marked.csv": "\ufefftext,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS),
    "pipeline.json": {"data": {"sentences": list(TEXTS), "labels": [0, 1] * 4}, "task": "Classification",
                      "labels": {"0": "no", "1": "yes"}, "size": 8},
    "pipeline_by_index.json": {"data": {"sentences": {str(i): TEXTS[i] for i in (7, 6, 5, 4, 3, 2, 1, 0)},
                                        "labels": {str(i): i % 2 for i in range(8)}}, "labels": {"0": "no", "1": "yes"}},
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_the_same_rows_in_every_shape_of_file(write, name):
    assert is_rows(load_dataset(write(name, SHAPES[name])))


def test_parquet_and_pandas(tmp_path):
    frame = pd.DataFrame(ROWS)
    frame.to_parquet(tmp_path / "rows.parquet")
    assert is_rows(load_dataset(str(tmp_path / "rows.parquet")))
    assert is_rows(from_frame(frame[::-1][::-1]))
    assert is_rows(from_frame({"text": list(TEXTS), "label": [row["label"] for row in ROWS]}))
    assert load_dataset(str(tmp_path / "rows.parquet")).name == "rows"


def test_a_folder_with_a_file_for_each_split(write):
    write("set/train.jsonl", ROWS[:4])
    write("set/dev.jsonl", ROWS[4:6])
    folder = write("set/my-test-part.jsonl", ROWS[6:]).rsplit("/", 1)[0]
    write("set/README.md", "about it")
    data = load_dataset(folder)
    assert dict(zip(*np.unique(data.split, return_counts=True), strict=True)) == {
        "test": 2,
        "train": 4,
        "validation": 2,
    }
    assert set(load_dataset(DatasetConfig(folder, split="train,validation")).split) == {"train", "validation"}
    assert len(load_dataset(DatasetConfig(folder, split="dev"))) == 2


def test_a_split_column_is_seen_and_its_names_made_usual(write):
    rows = [{**row, "split": ("training", "val")[i > 5]} for i, row in enumerate(ROWS)]
    assert load_dataset(write("rows.jsonl", rows)).split.tolist() == ["train"] * 6 + ["validation"] * 2


@pytest.mark.parametrize("names", [("rt.neg", "rt.pos"), ("neg.txt", "pos.txt")])
def test_two_files_one_for_each_class(write, names):
    write(f"classes/{names[0]}", "dull\nslow .\n\n")
    folder = write(f"classes/{names[1]}", "bright\nfast .\n").rsplit("/", 1)[0]
    data = load_dataset(folder)
    assert data.texts == ("dull", "slow .", "bright", "fast .")
    assert [data.label_names[label] for label in data.labels] == ["neg", "neg", "pos", "pos"]


def test_text_that_is_not_utf8_is_read_and_reported(write):
    path = write("old.tsv", "ham\tcaf\xe9 at noon \x93now\x94\nspam\tfree money here\n".encode("latin-1"))
    data = load_dataset(path)
    assert data.texts[0] == "café at noon “now”"
    assert data.notes == ("old.tsv is not UTF-8 (line 1); read as Windows-1252.",)


def test_utf16_is_read_by_its_mark(write):
    assert load_dataset(write("wide.txt", "one text\nanother text\n".encode("utf-16"))).texts == (
        "one text",
        "another text",
    )


def test_a_text_file_is_unlabelled(write):
    data = load_dataset(write("lines.txt", "one\n\ntwo words\n"))
    assert (data.task, data.texts, data.labels) == ("unlabelled", ("one", "two words"), None)


def test_marks_inside_tab_separated_messages_are_not_quotation(write):
    data = load_dataset(write("sms.tsv", 'ham\t"hi" she said\nspam\t"win now\nham\tok then\n'))
    assert data.texts == ('"hi" she said', '"win now', "ok then")


def test_quoted_cells_hold_separators_and_line_breaks(write):
    data = load_dataset(write("q.csv", 'text,label\n"one, two\nthree",a\n"say ""hi"" now",b\n'))
    assert data.texts == ("one, two\nthree", 'say "hi" now')


def test_a_column_named_in_the_config_makes_the_first_row_a_header(write):
    path = write("h.tsv", "a a\tb\nb b\tc\nc c\td\n")
    assert load_dataset(DatasetConfig(path, text="a a", label="b")).texts == ("b b", "c c")


def test_pairs_groups_ids_negations_and_spans(write):
    rows = [
        {"q": "is it red", "p": "it is red", "n": "it is not red", "y": 1, "g": "a", "key": "r1", "where": "red"},
        {"q": "is it dry", "p": "it is wet", "n": "it is not wet", "y": 0, "g": "b", "key": "r2", "where": "dry"},
    ]
    columns = ColumnsConfig(pair="p", id="key", negation="n", span="where")
    data = load_dataset(DatasetConfig(write("x.jsonl", rows), text="q", label="y", group="g", columns=columns))
    assert data.pairs == ("it is red", "it is wet")
    assert data.groups.tolist() == ["a", "b"]
    assert data.ids == ("r1", "r2")
    assert data.contrast == (("is it red", "it is not red"), ("is it dry", "it is not wet"))
    assert [text[a:b] for text, (a, b) in zip(data.texts, data.spans, strict=True)] == ["red", "dry"]


def test_known_pairs_of_columns_are_found(write):
    rows = [{"premise": f"a man sat {i}", "hypothesis": f"he rests {i}", "label": i % 2} for i in range(4)]
    data = load_dataset(write("nli.jsonl", rows))
    assert (data.texts[0], data.pairs[0]) == ("a man sat 0", "he rests 0")


@pytest.mark.parametrize(
    ("labels", "task", "names", "values"),
    [
        ([3, 7, 3, 7], "classification", ("3", "7"), [0, 1, 0, 1]),
        (["3", "7", "3", "7"], "classification", ("3", "7"), [0, 1, 0, 1]),
        ([1.0, 0.0, 1.0, 0.0], "classification", ("0", "1"), [1, 0, 1, 0]),
        ([True, False, True, False], "classification", ("false", "true"), [1, 0, 1, 0]),
        (["b", "a", "b", "a"], "classification", ("a", "b"), [1, 0, 1, 0]),
        ([0.5, 1, 2, 3], "regression", (), [0.5, 1, 2, 3]),
        (["0.5", "1", "2e0", "3"], "regression", (), [0.5, 1, 2, 3]),
    ],
)
def test_what_label_values_mean(labels, task, names, values):
    data = from_frame({"text": ["a a", "b b", "c c", "d d"], "label": labels})
    assert (data.task, data.label_names, data.labels.tolist()) == (task, names, values)


def test_many_whole_numbers_are_targets_unless_said_otherwise():
    columns = {"text": [f"text {i}" for i in range(120)], "label": list(range(60)) * 2}
    assert from_frame(columns).task == "regression"
    assert from_frame(columns, DatasetConfig("x", labels=LabelsConfig(task="classification"))).n_classes == 60


def test_names_give_class_ids_their_names_and_words_their_order():
    texts = ["a a", "b b", "c c"]
    by_id = from_frame(
        {"text": texts, "label": [0, 2, 1]}, DatasetConfig("x", labels=LabelsConfig(names=["low", "mid", "high"]))
    )
    by_word = from_frame(
        {"text": texts, "label": ["low", "high", "mid"]},
        DatasetConfig("x", labels=LabelsConfig(names=["low", "mid", "high"])),
    )
    assert by_id.label_names == by_word.label_names == ("low", "mid", "high")
    assert by_id.labels.tolist() == by_word.labels.tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    ("rule", "values", "names"),
    [
        ("round", [0, 0, 1, 1, 1], ("0", "1")),
        ("thresholds:0.5", [0, 0, 1, 1, 1], ("(-inf, 0.5)", "[0.5, inf)")),
        ("thresholds:0.2+0.9", [0, 1, 1, 1, 2], ("(-inf, 0.2)", "[0.2, 0.9)", "[0.9, inf)")),
        ("quantiles:2", [0, 0, 1, 1, 1], ("(-inf, 0.5)", "[0.5, inf)")),
    ],
)
def test_targets_become_classes(rule, values, names):
    columns = {"text": [f"text {i}" for i in range(5)], "label": [0.0, 0.2, 0.5, 0.7, 1.0]}
    data = from_frame(columns, DatasetConfig("x", labels=LabelsConfig(classes=rule)))
    assert (data.task, data.labels.tolist(), data.label_names) == ("classification", values, names)


def test_quantile_bins_are_equal_in_size():
    target = np.random.default_rng(0).normal(size=400)
    data = from_frame(
        {"text": [f"text {i}" for i in range(400)], "label": target},
        DatasetConfig("x", labels=LabelsConfig(classes="quantiles:4")),
    )
    assert np.bincount(data.labels).tolist() == [100] * 4


def test_a_promise_of_more_rows_than_a_pipeline_file_holds_is_noted(write):
    value = {
        "data": {"sentences": ["a b", "c d"], "labels": [0.2, 0.9]},
        "task": "Regression",
        "size": 12836,
        "name": "liar",
    }
    data = load_dataset(write("liar.json", value))
    assert data.task == "regression"
    assert data.labels.tolist() == [0.2, 0.9]
    assert data.notes == ("liar.json promises 12836 rows and holds 2.",)


def test_pipeline_targets_stay_targets_when_they_are_whole_numbers(write):
    value = {"data": {"sentences": ["a b", "c d"], "labels": [0, 1]}, "task": "Regression"}
    assert load_dataset(write("r.json", value)).task == "regression"
