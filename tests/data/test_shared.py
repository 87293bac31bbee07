"""The sets a person brings, as they are found in the world; skipped where they are not at hand."""

from __future__ import annotations

import numpy as np
import pytest

from layerwise.data.config import ColumnsConfig, DatasetConfig, LabelsConfig
from layerwise.data.load import load_dataset
from layerwise.data.prepare import prepare, tidy


def test_rotten_tomatoes_two_files_in_an_old_encoding(shared, tmp_path):
    data = load_dataset(str(shared / "data/rotten_tomatoes"))
    assert np.bincount(data.labels).tolist() == [5331, 5331]
    assert data.label_names == ("neg", "pos")
    assert len(data.notes) == 2
    assert any("é" in text for text in data.texts)
    tidied, report = tidy(data)
    prepare(tidied, tmp_path / "rt", report=report)
    assert load_dataset(str(tmp_path / "rt")).digest() == tidied.digest()


def test_sms_spam_without_a_header(shared):
    data = load_dataset(str(shared / "data/sms_spam/sms.tsv"))
    assert dict(zip(data.label_names, np.bincount(data.labels).tolist(), strict=True)) == {"ham": 4827, "spam": 747}


def test_a_treebank_by_word_and_by_sentence(shared):
    words = load_dataset(str(shared / "data/ud_english_ewt"))
    assert len(words) == 2001 + 2077
    assert len(words.label_names) == 17
    for text, row in zip(words.texts[:300], words.token_labels[:300], strict=True):
        assert all(text[start:end].strip() == text[start:end] != "" for start, end, _ in row)
    tense = load_dataset(DatasetConfig(str(shared / "data/ud_english_ewt"), label="sentence:Tense"))
    assert tense.label_names == ("Past", "Pres")
    assert len(tense) > 2000
    assert set(tense.split) == {"validation", "test"}


@pytest.mark.parametrize(
    ("path", "settings", "rows"),
    [
        ("cola/raw", {"text": "column_4", "label": "column_2"}, 8551 + 527 + 516),
        ("function_vectors/ag_news.json", {}, 7600),
        ("tinystories_sample/tinystories_1000.json", {}, 1000),
        ("feature_circuits_sva/simple_train.json", {"text": "clean_prefix", "label": "case"}, 480),
        (
            "lre_relations/factual/country_capital_city.json",
            {"text": "subject", "columns": ColumnsConfig(pair="object")},
            24,
        ),
    ],
)
def test_files_of_other_projects(shared, path, settings, rows):
    labels = LabelsConfig(task="unlabelled") if "columns" in settings else LabelsConfig()
    assert len(load_dataset(DatasetConfig(str(shared / "data" / path), labels=labels, **settings))) == rows
