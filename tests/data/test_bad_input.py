"""Every mistake a person can make with data, and the message it gives."""

from __future__ import annotations

import os

import pytest

from layerwise.data.config import ColumnsConfig, DatasetConfig, LabelsConfig
from layerwise.data.load import load_dataset
from layerwise.errors import UserError

from .conftest import ROWS

TWO = [{"text": "one text", "label": 0}, {"text": "two texts", "label": 1}]


def rows(**changes: object) -> list[dict[str, object]]:
    """Two good rows, the second with ``changes``."""
    return [dict(TWO[0]), {**TWO[1], **changes}]


# file name, content, further settings, the message
FILES = {
    "malformed JSON": ("a.json", '[\n{"text": "a",\n}]', {}, r"a.json, line 2: not JSON|a.json, line 3: not JSON"),
    "malformed line": ("a.jsonl", '{"text": "a"}\n{"text": \n', {}, "a.jsonl, line 2: not JSON"),
    "line that is no object": ("a.jsonl", '{"text": "a"}\n[1]\n', {}, "line 2: each line must be an object .* got a list"),
    "JSON without rows": ("a.json", '{"version": 3}', {}, "no rows found in an object"),
    "JSON of numbers": ("a.json", "[1, 2]", {}, "no rows found in a list"),
    "columns of unequal length": ("a.json", '{"text": ["a"], "label": [1, 2]}', {}, "unequal length: text 1, label 2"),
    "pipeline rows that differ": (
        "a.json", {"data": {"sentences": {"0": "a", "2": "b"}, "labels": {"0": 1, "1": 0}}}, {}, "their row numbers differ",
    ),
    "empty file": ("a.csv", "  \n", {}, "a.csv is empty"),
    "header alone": ("a.csv", "text,label\n", {"text": "text"}, "has a header .text, label. and no rows"),
    "row of another length": ("a.csv", "text,label\none text,a\ntwo, texts,b\n", {}, "row 2: 3 cells where 2 are wanted"),
    "two columns of one name": ("a.csv", "text,text\na,b\n", {"text": "text"}, "two columns have the same name"),
    "binary file": ("a.txt", b"\x00\x01\x02", {}, "is a binary file, not text"),
    "broken Parquet": ("a.parquet", b"PAR1 nonsense", {}, "cannot read .* as Parquet"),
    "unknown kind of file": ("a.docx", b"x", {}, "cannot tell what .* holds from its suffix '.docx'. Readable: .jsonl"),
    "label column missing": ("a.jsonl", TWO, {"label": "labell"}, r"no column 'labell'. Did you mean 'label'\?\nColumns: text .one text., label .0."),
    "text column missing": ("a.jsonl", TWO, {"text": "sentence"}, "no column 'sentence'.*\nColumns: text"),
    "group column missing": ("a.jsonl", TWO, {"group": "author"}, "no group column 'author'"),
    "id column missing": ("a.jsonl", TWO, {"columns": ColumnsConfig(id="key")}, "no column for columns.id 'key'"),
    "text unclear": ("a.jsonl", [{"review": "a b", "comment": "c d", "label": 1}], {}, "could be 'review' or 'comment'"),
    "label unclear": ("a.jsonl", [{"text": "a b", "x": 1, "z": 2}, {"text": "c d", "x": 2, "z": 1}], {}, "could be 'x' or 'z'. Name it with label"),
    "no label": ("a.jsonl", [{"text": "a b", "note": "c d"}, {"text": "e f", "note": "g h"}, {"text": "i", "note": "j k"}, {"text": "l", "note": "m n"}, {"text": "o", "note": "p"}], {}, "it was not found. Name it with label"),
    "one class only": ("a.jsonl", rows(label=0), {}, r"only one class \('0'\) in its 2 rows"),
    "targets all equal": ("a.jsonl", [{"text": "a b", "label": 0.5}] * 2, {}, "every target is 0.5"),
    "empty text": ("a.jsonl", rows(text=" "), {}, r"row 2 has an empty text \(column 'text'\). Fill it in, or let `prepare`"),
    "text missing": ("a.jsonl", rows(text=None), {}, "row 2 has an empty text"),
    "text that is a number": ("a.jsonl", [{"text": 5, "label": 1}, {"text": 6, "label": 0}], {"text": "text"}, "row 1: column 'text' should hold text, got int 5"),
    "label missing": ("a.jsonl", rows(label=None), {}, r"row 2 has (no label|label nan) \(column 'label'\)"),
    "label NaN": ("a.json", '[{"text": "a b", "label": 1}, {"text": "c d", "label": NaN}]', {}, "row 2 has label nan"),
    "label infinite": ("a.json", '[{"text": "a b", "label": 0.5}, {"text": "c d", "label": Infinity}]', {"labels": LabelsConfig(task="regression")}, "row 2 has an infinite label"),
    "label in a list": ("a.jsonl", [{"text": "a b", "label": [1]}], {}, "row 1: the label .* is a list, not one value"),
    "words for a regression": ("a.jsonl", rows(label="good"), {"labels": LabelsConfig(task="regression")}, "a regression needs numbers, but column 'label' holds 'good'"),
    "fractions for a classification": ("a.jsonl", rows(label=0.5), {"labels": LabelsConfig(task="classification")}, "holds fractions .*\n.*labels.classes=quantiles:2"),
    "texts for labels": ("a.jsonl", [{"text": f"t {i}", "label": f"free text {i}"} for i in range(120)], {}, "120 different values in 120 rows, which are no classes"),
    "names that do not fit words": ("a.jsonl", ROWS, {"labels": LabelsConfig(names=["no", "maybe"])}, "'yes', which is not among labels.names .no, maybe."),
    "names that do not fit ids": ("a.jsonl", rows(label=5), {"labels": LabelsConfig(names=["no", "yes"])}, "class id 5, but there are 2 names"),
    "names that do not fit bins": ("a.jsonl", rows(label=0.5), {"labels": LabelsConfig(classes="round", names=["a"])}, "1 names for 2 classes"),
    "bins of tied targets": ("a.jsonl", [{"text": f"t {i}", "label": float(i > 8)} for i in range(10)], {"labels": LabelsConfig(classes="quantiles:4")}, "only 2 of 4 bins have rows|only 1 of 4"),
    "task without labels": ("a.jsonl", [{"text": "a b"}, {"text": "c d"}], {"labels": LabelsConfig(task="classification")}, "labels.task=classification needs labels"),
    "unknown split": ("a.jsonl", [{**row, "split": "train"} for row in TWO], {"split": "test"}, "unknown split 'test'.*\nKnown: train"),
    "no splits": ("a.jsonl", TWO, {"split": "test"}, "names no splits, so split='test' cannot be read"),
    "value that is no split": ("a.jsonl", [{**TWO[0], "part": "train"}, {**TWO[1], "part": "tset"}], {"columns": ColumnsConfig(split="part")}, "row 2: 'tset' is no split"),
    "repeated ids": ("a.jsonl", [{**row, "id": 7} for row in TWO], {"columns": ColumnsConfig(id="id")}, "row 2 repeats the id '7'.*; 1 ids are repeated"),
    "group missing": ("a.jsonl", [{**TWO[0], "g": "x"}, {**TWO[1], "g": None}], {"group": "g"}, "row 2 has no group"),
    "group in two splits": (
        "a.jsonl", [{**TWO[0], "g": "x", "split": "train"}, {**TWO[1], "g": "x", "split": "test"}], {"group": "g"},
        r"group x is in several given splits \(train, test\)",
    ),
    "where without such a column": ("a.jsonl", TWO, {"where": {"lang": "en"}}, "where: no column 'lang'"),
    "where without such a value": ("a.jsonl", TWO, {"where": {"label": 9}}, "no row has label=9. It is 0, 1"),
}  # fmt: skip


@pytest.mark.parametrize("what", FILES)
def test_a_bad_file_or_setting(write, what):
    name, content, settings, message = FILES[what]
    path = write(name, content)
    with pytest.raises(UserError, match=message) as told:
        load_dataset(DatasetConfig(path, **settings))
    assert 1 <= len(str(told.value).splitlines()) <= 3


def test_a_missing_file_names_its_neighbour(write):
    path = write("reviews.csv", "text,label\n")
    with pytest.raises(UserError, match=r"no file .*review.csv. Did you mean 'reviews.csv'"):
        load_dataset(path.replace("reviews", "review"))
    with pytest.raises(UserError, match=r"no file or folder .*\nFor a dataset of the hub write hub:owner/name"):
        load_dataset("owner/name")


def test_a_file_that_may_not_be_read(write):
    path = write("secret.txt", "a text\n")
    os.chmod(path, 0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    with pytest.raises(UserError, match=r"cannot read .*: Permission denied"):
        load_dataset(path)


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(
        UserError,
        match=r"unknown dataset 'citties'. Did you mean 'cities'\?\nBundled: cities, .*Known on the hub: ag_news",
    ):
        load_dataset("citties")
    with pytest.raises(UserError, match=r"name is empty"):
        DatasetConfig(" ")


def test_folders_that_cannot_be_read(write, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no data files"):
        load_dataset(str(tmp_path / "empty"))
    write("many/one.csv", "text,label\na,b\n")
    folder = write("many/two.csv", "text,label\na,b\n").rsplit("/", 1)[0]
    with pytest.raises(
        UserError, match=r"2 data files whose names say neither their split nor their class: one.csv, two.csv"
    ):
        load_dataset(folder)
    write("differ/train.jsonl", [{"text": "a b", "label": 1}])
    folder = write("differ/test.jsonl", [{"sentence": "a b", "label": 1}]).rsplit("/", 1)[0]
    with pytest.raises(
        UserError, match=r"the files have different columns: test.jsonl: sentence, label, split; train.jsonl: text"
    ):
        load_dataset(folder)


def test_a_row_is_named_with_its_file_in_a_folder(write):
    write("set/train.jsonl", TWO)
    folder = write("set/test.jsonl", rows(text="")).rsplit("/", 1)[0]
    with pytest.raises(UserError, match=r"row 2 of test.jsonl has an empty text"):
        load_dataset(folder)


def test_settings_that_cannot_apply_to_a_bundled_dataset():
    with pytest.raises(UserError, match=r"so label, where cannot apply"):
        load_dataset(DatasetConfig("cities", label="truth", where={"country": "France"}))
    with pytest.raises(UserError, match=r"is a classification task already"):
        load_dataset(DatasetConfig("cities", labels=LabelsConfig(task="regression")))
    with pytest.raises(UserError, match=r"names no splits"):
        load_dataset(DatasetConfig("cities", split="test"))


@pytest.mark.parametrize(
    "rule", ["rounds", "quantiles", "quantiles:1", "quantiles:2.5", "thresholds:", "thresholds:0.5+0.2", "round:2"]
)
def test_a_rule_for_classes_that_is_none(rule):
    with pytest.raises(UserError, match=r"is not understood. One of round, quantiles:K, thresholds:A"):
        LabelsConfig(classes=rule)


def test_settings_of_labels_that_contradict_each_other():
    with pytest.raises(UserError, match=r"'half' is not a number"):
        LabelsConfig(classes="thresholds:half")
    with pytest.raises(UserError, match=r"cannot be 'regression'"):
        LabelsConfig(classes="round", task="regression")
    with pytest.raises(UserError, match=r"unknown labels.task 'classify'. Did you mean 'classification'"):
        LabelsConfig(task="classify")
