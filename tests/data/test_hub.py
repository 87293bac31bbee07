from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest

from layerwise.data.config import ColumnsConfig, DatasetConfig, LabelsConfig
from layerwise.data.load import load_dataset
from layerwise.data.mappings import MAPPINGS
from layerwise.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


# name: (rows as the hub has them, the text, labels or targets, and names that must come out)
SOURCES: dict[str, tuple[list[dict[str, Any]], list[str], list[float], tuple[str, ...]]] = {
    "ag_news": (
        [{"text": "stocks fell", "label": 2}, {"text": "they won", "label": 1}],
        ["stocks fell", "they won"], [2, 1], ("World", "Sports", "Business", "Sci/Tech"),
    ),
    "amazon_polarity": (
        [{"label": 1, "title": "Great", "content": "a fine book"}, {"label": 0, "title": "No", "content": "it broke"}],
        ["a fine book", "it broke"], [1, 0], ("negative", "positive"),
    ),
    "app_reviews": (
        [{"package_name": "p", "review": f"review {star}", "date": "d", "star": star} for star in (1, 2, 5)],
        ["review 1", "review 2", "review 5"], [0, 0.25, 1], (),
    ),
    "cola": (
        [{"sentence": "he ran", "label": 1, "idx": 0}, {"sentence": "him ran", "label": 0, "idx": 1}, {"sentence": "secret", "label": -1, "idx": 2}],
        ["he ran", "him ran"], [1, 0], ("unacceptable", "acceptable"),
    ),
    "colbert": (
        [{"text": "a joke", "humor": True}, {"text": "the news", "humor": False}],
        ["a joke", "the news"], [1, 0], ("not humorous", "humorous"),
    ),
    "dutch_social": (
        [{"full_text": "goed", "text_translation": "good", "sentiment_pattern": 1.0, "label": 2},
         {"full_text": "mwah", "text_translation": "meh", "sentiment_pattern": -0.5, "label": 0}],
        ["good", "meh"], [1, 0.25], (),
    ),
    "emotion": (
        [{"text": "i feel low", "label": 0}, {"text": "i feel fine", "label": 1}],
        ["i feel low", "i feel fine"], [0, 1], ("sadness", "joy", "love", "anger", "fear", "surprise"),
    ),
    "ethics_commonsense": (
        [{"label": 0, "input": "I fed the dog.", "is_short": True, "edited": False},
         {"label": 1, "input": "I kicked the dog.", "is_short": True, "edited": False},
         {"label": 1, "input": "A long story about a dog.", "is_short": False, "edited": False}],
        ["I fed the dog.", "I kicked the dog."], [0, 1], ("acceptable", "wrong"),
    ),
    "hate_speech18": (
        [{"text": t, "user_id": 1, "label": n} for n, t in enumerate(["a walk", "an insult", "????", "see above"])],
        ["a walk", "an insult"], [0, 1], ("noHate", "hate"),
    ),
    "hellaswag": (
        [{"ind": 4, "activity_label": "Cooking", "ctx_a": "A man [title] stands.", "ctx_b": "he", "ctx": "", "label": "1", "split": "train",
          "endings": ["sleeps.", "cooks [x] rice.", "flies.", "sings."], "source_id": "a~1", "split_type": "indomain"},
         {"ind": 5, "activity_label": "Running", "ctx_a": "One", "ctx_b": "", "ctx": "", "label": "", "split": "test",
          "endings": ["a", "b", "c", "d"], "source_id": "a~2", "split_type": "zeroshot"}],
        [f"Cooking: A man. stands. He {end}" for end in ("sleeps.", "cooks rice.", "flies.", "sings.")],
        [0, 1, 0, 0], ("wrong", "right"),
    ),
    "humicroedit": (
        [{"id": "1", "original": "Kushner to visit <Mexico/> soon", "edit": "therapist", "grades": "33332", "meanGrade": 3.0},
         {"id": "2", "original": "<Dogs/> bark", "edit": r"Cats \1", "grades": "0", "meanGrade": 0.0}],
        ["Kushner to visit therapist soon", r"Cats \1 bark"], [1, 0], (),
    ),
    "imdb": ([{"text": "fine film", "label": 1}, {"text": "dull film", "label": 0}], ["fine film", "dull film"], [1, 0], ("negative", "positive")),
    "liar": (
        [{"id": f"{n}.json", "label": n, "statement": f"statement {n}", "subject": "s"} for n in range(6)],
        [f"statement {n}" for n in range(6)], [0.2, 0.6, 0.8, 1.0, 0.4, 0.0], (),
    ),
    "rotten_tomatoes": ([{"text": "a gem", "label": 1}, {"text": "a dud", "label": 0}], ["a gem", "a dud"], [1, 0], ("negative", "positive")),
    "snli": (
        [{"premise": "a man sits", "hypothesis": f"he {n}", "label": n} for n in (0, 1, 2, -1)],
        ["a man sits"] * 3, [0, 1, 2], ("entailment", "neutral", "contradiction"),
    ),
    "sst": (
        [{"sentence": "a gem", "label": 1.0, "tokens": "a|gem", "tree": "3|3|0"}, {"sentence": "a dud", "label": 0.0, "tokens": "a|dud", "tree": "3|3|0"}],
        ["a gem", "a dud"], [1, 0], (),
    ),
    "sst2": (
        [{"idx": 0, "sentence": "a gem", "label": 1}, {"idx": 1, "sentence": "a dud", "label": 0}, {"idx": 2, "sentence": "hidden", "label": -1}],
        ["a gem", "a dud"], [1, 0], ("negative", "positive"),
    ),
    "tweets_hate_speech_detection": (
        [{"label": 0, "tweet": "good day"}, {"label": 1, "tweet": "bad day"}],
        ["good day", "bad day"], [0, 1], ("no-hate-speech", "hate-speech"),
    ),
}  # fmt: skip


def folder_of(rows: list[dict[str, Any]], folder: Path) -> str:
    folder.mkdir()
    pd.DataFrame(rows).to_parquet(folder / "train-00000-of-00001.parquet", index=False)
    return str(folder)


def test_every_mapping_is_tried():
    assert set(SOURCES) == set(MAPPINGS)


@pytest.mark.parametrize("name", SOURCES)
def test_a_folder_of_the_shape_of_the_hub_reads_as_declared(name, tmp_path):
    rows, texts, labels, names = SOURCES[name]
    data = load_dataset(DatasetConfig(folder_of(rows, tmp_path / "copy"), mapping=name))
    assert list(data.texts) == texts
    np.testing.assert_allclose(data.labels, labels)
    assert data.label_names == names
    assert data.task == ("classification" if names else "regression")
    assert set(data.split) == {"train"}


def test_liar_as_a_classification_has_its_classes_in_order(tmp_path):
    folder = folder_of(SOURCES["liar"][0], tmp_path / "liar")
    data = load_dataset(DatasetConfig(folder, mapping="liar", labels=LabelsConfig(task="classification")))
    assert data.label_names == ("pants-fire", "false", "barely-true", "half-true", "mostly-true", "true")
    assert data.labels.tolist() == [1, 3, 4, 5, 2, 0]


def test_targets_of_a_mapping_round_to_classes_as_the_pipeline_did(tmp_path):
    folder = folder_of(SOURCES["app_reviews"][0], tmp_path / "apps")
    data = load_dataset(DatasetConfig(folder, mapping="app_reviews", labels=LabelsConfig(classes="round")))
    assert data.labels.tolist() == [0, 0, 1]
    stars = load_dataset(DatasetConfig(folder, mapping="app_reviews", labels=LabelsConfig(task="classification")))
    assert stars.label_names == ("1", "2", "5")


def test_pairs_and_groups_of_a_mapping(tmp_path):
    assert load_dataset(DatasetConfig(folder_of(SOURCES["snli"][0], tmp_path / "a"), mapping="snli")).pairs == (
        "he 0",
        "he 1",
        "he 2",
    )
    swag = load_dataset(
        DatasetConfig(
            folder_of(SOURCES["hellaswag"][0], tmp_path / "b"), mapping="hellaswag", where={"split_type": "indomain"}
        )
    )
    assert set(swag.groups) == {"a~1"}


def saved(folder: Path, parts: dict[str, list[dict[str, Any]]], features: datasets.Features) -> str:
    datasets.DatasetDict(
        {name: datasets.Dataset.from_list(rows, features=features) for name, rows in parts.items()}
    ).save_to_disk(folder)
    return str(folder)


def test_class_labels_of_a_saved_dataset_give_names_and_hidden_labels_are_left_out(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["cold", "hot"])}
    )
    rows = {
        "train": [{"text": "ice is", "label": 0}, {"text": "fire is", "label": 1}],
        "test": [{"text": "what", "label": -1}],
    }
    data = load_dataset(saved(tmp_path / "disk", rows, features))
    assert data.texts == ("ice is", "fire is")
    assert data.label_names == ("cold", "hot")
    assert data.notes == ("1 rows without a label (label = -1) are left out.",)


def test_word_tags_of_a_saved_dataset_keep_their_names(tmp_path):
    tags = datasets.List(datasets.ClassLabel(names=["O", "PER"]))
    features = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "ner": tags})
    folder = saved(tmp_path / "disk", {"train": [{"tokens": ["Ann", "ran"], "ner": [1, 0]}]}, features)
    data = load_dataset(DatasetConfig(folder, columns=ColumnsConfig(words="tokens", tags="ner")))
    assert data.token_labels == (((0, 3, 1), (4, 7, 0)),)
    assert data.label_names == ("O", "PER")


def test_parts_that_are_no_split_are_left_out_with_a_note_unless_the_mapping_places_them(tmp_path):
    def two(folder: str, name: str, rows: list[dict[str, Any]]) -> str:
        (tmp_path / folder).mkdir()
        features = datasets.Dataset.from_list(rows).features
        return saved(tmp_path / folder / "disk", {"train": rows, name: rows}, features)

    imdb = load_dataset(DatasetConfig(two("a", "unsupervised", SOURCES["imdb"][0]), mapping="imdb"))
    assert len(imdb) == 2
    assert "'unsupervised'" in imdb.notes[0]
    edits = load_dataset(DatasetConfig(two("b", "funlines", SOURCES["humicroedit"][0]), mapping="humicroedit"))
    assert len(edits) == 4
    assert set(edits.split) == {"train"}


def test_a_folder_of_another_shape_lists_its_columns(tmp_path):
    folder = folder_of([{"body": "a b", "label": 1}], tmp_path / "other")
    with pytest.raises(UserError, match=r"no column 'text'.\nColumns: body, label, split"):
        load_dataset(DatasetConfig(folder, mapping="imdb"))


def test_an_unknown_mapping_names_the_nearest(tmp_path):
    with pytest.raises(UserError, match=r"unknown hub mapping 'lair'. Did you mean 'liar'"):
        load_dataset(DatasetConfig(str(tmp_path), mapping="lair"))


def test_without_a_connection_the_message_says_what_to_do():
    code = (
        "from layerwise.data.load import load_dataset\nfrom layerwise.errors import UserError\n"
        "for name in ('hub:someone/something', 'liar'):\n"
        "    try: load_dataset(name)\n"
        "    except UserError as error: print(error)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    told = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert told.count("the hub cannot be reached") == 2
    assert told.count("copy the dataset to a folder") == 2
    assert "mapping=liar" in told
