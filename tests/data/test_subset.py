from __future__ import annotations

import numpy as np
import pytest

from layerwise.data.build import from_frame
from layerwise.data.config import DatasetConfig
from layerwise.data.load import load_dataset
from layerwise.errors import UserError

COLUMNS = {
    "text": [f"text {i}" for i in range(100)],
    "label": ["rare" if i % 5 == 0 else "common" for i in range(100)],
    "language": ["en" if i < 60 else "de" if i < 90 else "fr" for i in range(100)],
    "year": [2000.0 + i % 3 for i in range(100)],
}


def test_rows_are_chosen_by_value_or_values():
    assert len(from_frame(COLUMNS, DatasetConfig("x", where={"language": "en"}))) == 60
    assert len(from_frame(COLUMNS, DatasetConfig("x", where={"language": ["en", "fr"]}))) == 70
    chosen = from_frame(COLUMNS, DatasetConfig("x", where={"language": "de", "year": 2001}))
    assert chosen.texts == tuple(f"text {i}" for i in range(60, 90) if i % 3 == 1)


def test_a_limit_keeps_the_classes_in_proportion_and_the_order():
    data = from_frame(COLUMNS, DatasetConfig("x", limit=25, label="label"))
    assert np.bincount(data.labels).tolist() == [20, 5]
    numbers = [int(text.split()[1]) for text in data.texts]
    assert numbers == sorted(numbers)
    assert data.texts != from_frame(COLUMNS, DatasetConfig("x", limit=25, label="label", seed=1)).texts
    assert data.digest() == from_frame(COLUMNS, DatasetConfig("x", limit=25, label="label")).digest()
    assert len(from_frame(COLUMNS, DatasetConfig("x", limit=1000, label="label"))) == 100


def test_balancing_draws_equally_many_of_each_class_within_each_split():
    split = ["train"] * 60 + ["test"] * 40
    data = from_frame({**COLUMNS, "split": split}, DatasetConfig("x", balance=True, label="label"))
    assert np.bincount(data.labels).tolist() == [20, 20]
    assert np.bincount(data.labels[data.split == "test"]).tolist() == [8, 8]


def test_bundled_datasets_can_be_limited_too():
    data = load_dataset(DatasetConfig("cities", limit=40))
    assert np.bincount(data.labels).tolist() == [20, 20]
    assert len(data.contrast) == len(data.groups) == 40


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DatasetConfig("x", where={"lang": "en"}), r"where: no column 'lang'. Did you mean 'language'"),
        (
            DatasetConfig("x", where={"language": "dee"}),
            r"no row has language=dee. Did you mean 'de'\? It is de, en, fr",
        ),
        (DatasetConfig("x", where={"language": "en", "year": 1999}), "no row has year=1999. It is 2000, 2001, 2002"),
        (DatasetConfig("x", text="text", label="year", balance=True, where={"language": "de"}), None),
    ],
)
def test_a_subset_that_is_empty_names_what_there_is(config, message):
    if message is None:
        assert set(np.bincount(from_frame(COLUMNS, config).labels)) == {10}
        return
    with pytest.raises(UserError, match=message):
        from_frame(COLUMNS, config)


def test_targets_cannot_be_balanced():
    with pytest.raises(UserError, match=r"only classes can be balanced, and its task is regression"):
        from_frame({"text": ["a b", "c d"], "label": [0.5, 0.7]}, DatasetConfig("x", balance=True))


def test_a_limit_below_one_is_refused():
    with pytest.raises(UserError, match=r"limit must be at least 1, got 0"):
        DatasetConfig("cities", limit=0)
