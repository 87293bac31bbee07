from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from layerwise.data.dataset import TextDataset
from layerwise.errors import UserError


def test_select_takes_everything_along(full):
    part = full.select([2, 0])
    assert part.texts == ("dd", "aa bb")
    assert part.labels.tolist() == [1, 0]
    assert part.pairs == ("r", "p")
    assert part.split.tolist() == ["test", "train"]
    assert part.groups.tolist() == ["h", "g"]
    assert part.contrast[0] == ("dd", "not")
    assert part.token_labels == (((0, 2, 1),), ((0, 2, 0), (3, 5, 1)))
    assert part.spans.tolist() == [[1, 2], [0, 2]]
    assert part.ids == ("3", "1")
    assert full.select(np.array([True, False, True])).texts == ("aa bb", "dd")
    assert len(full.select([])) == 0


def test_selecting_a_row_that_is_not_there_is_an_error(full):
    with pytest.raises(UserError, match=r"has 3 rows; row 3 was asked for"):
        full.select([3])


def test_selecting_everything_keeps_the_digest(full):
    assert full.select(range(3)).digest() == full.digest()


@pytest.mark.parametrize(
    "change",
    [
        {"texts": ("aa bb", "cc", "de")}, {"labels": np.array([1, 1, 1])}, {"label_names": ("x", "z")}, {"pairs": None},
        {"split": np.array(["train", "test", "test"])}, {"groups": np.array(["g", "h", "h"])}, {"contrast": None},
        {"token_labels": None}, {"spans": np.array([[0, 2], [0, 2], [0, 2]])}, {"ids": ("1", "2", "4")},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_any_change_of_content_changes_the_digest(full, change):
    assert replace(full, **change).digest() != full.digest()


def test_names_of_datasets_and_groups_do_not_change_the_digest(full):
    renamed = replace(full, name="other", notes=("a note",), source="s", licence="l", groups=np.array([7, 7, 3]))
    assert renamed.digest() == full.digest()


def test_the_digest_tells_targets_apart_to_the_last_bit():
    one = TextDataset("r", ("a", "b"), np.array([0.1, 0.2]), "regression")
    two = replace(one, labels=np.array([0.1, np.nextafter(0.2, 1)]))
    assert one.digest() != two.digest()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": np.array([0]), "task": "classification", "label_names": ("a",)}, "2 texts but 1 labels"),
        ({"pairs": ("a",)}, "2 texts but 1 pairs"),
        ({"task": "classification"}, "needs labels"),
        ({"task": "tokens"}, "needs labelled spans"),
        ({"labels": np.array([0, 2]), "task": "classification", "label_names": ("a", "b")}, "do not fit 2 label names"),
        ({"split": np.array(["train", "dev"])}, "unknown split 'dev'"),
    ],
)
def test_a_dataset_that_does_not_hang_together_is_refused(content, message):
    with pytest.raises(UserError, match=message):
        TextDataset("d", ("a", "b"), **content)
