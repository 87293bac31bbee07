"""Which wording a text is in, kept through everything that is done with a dataset; and one text put in several wordings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from layerwise.data.build import from_frame
from layerwise.data.config import ColumnsConfig, DatasetConfig
from layerwise.data.dataset import TextDataset
from layerwise.data.generators.catalogue import generate
from layerwise.data.load import load_dataset
from layerwise.data.prepare import prepare, tidy
from layerwise.data.splits import train_test
from layerwise.data.templates import in_wordings
from layerwise.errors import UserError

ASKED = ["{text}", "Is it true that {text}", "{text} Right?"]


@pytest.fixture
def worded(full: TextDataset) -> TextDataset:
    return replace(full, templates=np.array(["plain", "question", "plain"]))


def test_a_selection_takes_its_wordings_along(worded):
    assert worded.select([1, 0]).templates.tolist() == ["question", "plain"]


def test_the_digest_knows_the_wordings(full, worded):
    assert worded.digest() != full.digest()
    assert replace(worded, templates=None).digest() == full.digest()
    assert replace(worded, templates=np.array(["plain", "plain", "plain"])).digest() != worded.digest()


def test_a_wording_for_each_text_or_none(full):
    with pytest.raises(UserError, match="3 texts but 2 templates"):
        replace(full, templates=np.array(["a", "b"]))


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
@pytest.mark.parametrize("name", ["full", "numbers", "asked"])
def test_wordings_are_prepared_and_come_back(name, format, tmp_path, worded):
    data = {
        "full": lambda: worded,
        "numbers": lambda: tidy(generate("numbers"))[0],
        "asked": lambda: tidy(load_dataset(DatasetConfig("cities", limit=60, templates=ASKED)))[0],
    }[name]()
    prepare(data, tmp_path / "out", format)
    back = load_dataset(str(tmp_path / "out"))
    assert back.templates.tolist() == data.templates.tolist()
    assert back.digest() == data.digest()


def test_a_column_names_the_wording():
    frame = pd.DataFrame({"text": ["a b", "c d"], "label": [0, 1], "form": ["plain", 7]})
    data = from_frame(frame, DatasetConfig("x", columns=ColumnsConfig(template="form")))
    assert data.templates.tolist() == ["plain", "7"]
    with pytest.raises(UserError, match=r"no column for columns.template 'from'. Did you mean 'form'"):
        from_frame(frame, DatasetConfig("x", columns=ColumnsConfig(template="from")))
    with pytest.raises(UserError, match=r"row 2 has no template \(column 'form'\)"):
        from_frame(frame.assign(form=["plain", None]), DatasetConfig("x", columns=ColumnsConfig(template="form")))


@pytest.mark.parametrize(
    ("name", "wording_of"),
    [
        ("numbers", lambda text: "larger" if "larger" in text else "smaller"),
        ("grammar:number", lambda text: "future" if " will " in text else "past"),
    ],
)
def test_bundled_wordings_are_what_they_say(name, wording_of):
    data = generate(name)
    assert data.templates.tolist() == [wording_of(text) for text in data.texts]


@pytest.mark.parametrize("name", ["numbers", "grammar:tense", "grammar:number", "grammar:agreement", "grammar:subject"])
def test_bundled_wordings_hold_both_classes_equally_often(name):
    data = generate(name)
    assert len(set(data.templates)) == 2
    for template in set(data.templates):
        assert data.labels[data.templates == template].mean() == 0.5


def test_the_noun_nearby_is_of_the_number_that_the_wording_says():
    data = generate("grammar:agreement")
    wording = dict(zip(data.texts, data.templates, strict=True))
    assert wording["The teacher near the nurse walks."] == "same number"
    assert wording["The teacher near the nurses walks."] == "other number"


def test_every_text_is_put_in_every_wording(full):
    data = in_wordings(full, ASKED)
    assert data.texts[:4] == ("aa bb", "Is it true that aa bb", "aa bb Right?", "cc")
    assert data.templates.tolist() == ASKED * 3
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert data.split.tolist() == ["train"] * 6 + ["test"] * 3
    assert data.groups.tolist() == ["g"] * 6 + ["h"] * 3
    assert data.contrast[1] == ("Is it true that aa bb", "Is it true that not")
    assert data.pairs[:4] == ("p", "p", "p", "q")
    assert len(set(data.ids)) == 9


def test_characters_are_found_where_the_text_now_stands(full):
    data = in_wordings(full, ASKED)
    for row, (text, (start, end), pieces) in enumerate(zip(data.texts, data.spans, data.token_labels, strict=True)):
        plain, span, before = full.texts[row // 3], full.spans[row // 3], full.token_labels[row // 3]
        assert text[start:end] == plain[slice(*span)]
        assert [(text[a:b], label) for a, b, label in pieces] == [(plain[a:b], label) for a, b, label in before]


def test_copies_of_a_text_are_never_divided():
    texts = TextDataset("t", tuple(f"text {i}" for i in range(40)), np.arange(40) % 2, "classification", ("a", "b"))
    data = in_wordings(texts, ASKED)
    parts = [set(data.groups[rows]) for rows in train_test(data, 0.25, 0)]
    assert not parts[0] & parts[1]
    assert len(parts[0] | parts[1]) == 40
    assert in_wordings(texts, ASKED[1:2]).groups is None  # one wording makes no copies


def test_no_templates_change_nothing(full):
    assert in_wordings(full, []) is full


def test_a_config_puts_files_and_bundled_datasets_in_wordings(tmp_path):
    data = load_dataset(DatasetConfig("cities", limit=10, templates=ASKED))
    assert len(data) == 30  # the limit counts texts, not copies
    assert data.groups[:3].tolist() == [data.groups[0]] * 3
    pd.DataFrame({"text": ["a b", "c d"], "label": [0, 1]}).to_csv(tmp_path / "a.csv", index=False)
    read = load_dataset(DatasetConfig(str(tmp_path / "a.csv"), templates=["So: {text}"]))
    assert read.texts == ("So: a b", "So: c d")
    assert set(load_dataset(DatasetConfig("numbers", limit=10, templates=ASKED)).templates) == set(ASKED)


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        (["{txt}"], r"templates: '\{txt\}' holds \{text\} 0 times; write it once"),
        (["{text}", "{text} {text}"], "holds .* 2 times"),
        (["{text}", "{text}"], "is there twice"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(templates, message):
    with pytest.raises(UserError, match=message):
        DatasetConfig("cities", templates=templates)
