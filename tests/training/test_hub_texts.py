"""Texts of the hub, from folders of the same form: parts, articles, languages in turn, streams. Nothing here asks the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from huggingface_hub import constants

from layerwise.errors import UserError
from layerwise.training.data_config import Characters, HubData
from layerwise.training.packing import IGNORED
from layerwise.training.prepared import PreparedData, prepare_data
from layerwise.training.text import read_texts
from layerwise.training.text_catalogue import CATALOGUE


def write(folder: Path, parts: dict[str, list[dict[str, Any]]], as_hub: bool = True) -> str:
    """A copy: Parquet files named as the hub's, or what ``save_to_disk`` writes."""
    folder.mkdir(parents=True, exist_ok=True)
    if as_hub:
        for name, rows in parts.items():
            datasets.Dataset.from_list(rows).to_parquet(folder / f"{name}-00000-of-00001.parquet")
    else:
        found = {name: datasets.Dataset.from_list(rows) for name, rows in parts.items()}
        datasets.DatasetDict(found).save_to_disk(folder)
    return str(folder)


def texts(*values: str, column: str = "text") -> list[dict[str, Any]]:
    return [{column: value} for value in values]


def prepared(tmp_path: Path, context: int = 64, **fields: Any) -> PreparedData:
    return prepare_data(HubData(**fields), Characters(), context, cache=tmp_path / "kept", quiet=True)


@pytest.mark.parametrize("as_hub", [True, False])
@pytest.mark.parametrize("streaming", [False, True])
def test_ptb_keeps_its_parts(tmp_path: Path, as_hub: bool, streaming: bool) -> None:
    parts = {
        name: texts(*(f"{name} {n}" for n in range(30)), column="sentence") for name in ("train", "validation", "test")
    }
    name = write(tmp_path / "ptb", parts, as_hub)
    data = HubData(name=name, form="ptb", streaming=streaming, validation=10, test=5)
    found = read_texts(data)
    train = list(found.stream()) if found.stream else found.parts["train"]
    assert list(train) == [f"train {n}" for n in range(30)]
    size = 10 if streaming else 30
    assert list(found.parts["validation"]) == [f"validation {n}" for n in range(size)]


def test_wikitexts_lines_become_articles(tmp_path: Path) -> None:
    lines = []
    for number in range(25):
        lines += ["", f" = Title {number} = \n", "", " Some text . \n", " = = Section = = \n", " More . \n"]
    name = write(tmp_path / "wikitext", {"train": texts(*lines)})
    found = read_texts(HubData(name=name, form="wikitext", packing="samples")).parts
    assert sum(map(len, found.values())) == 25
    assert found["train"][3] == " = Title 3 = \n Some text . \n = = Section = = \n More . \n"


def test_wiki40b_loses_its_marks(tmp_path: Path) -> None:
    text = "\n_START_ARTICLE_\nA town\n_START_SECTION_\nPast\n_START_PARAGRAPH_\nOld._NEWLINE_Very old."
    name = write(tmp_path / "wiki", {"train": texts(*[text] * 30)})
    assert read_texts(HubData(name=name, form="wiki40b")).parts["train"][0] == "A town\nPast\nOld.\nVery old."


def test_of_questions_only_the_answers_count(tmp_path: Path) -> None:
    rows = [
        {"context": f"C{n}.", "question": "What?", "answers": {"text": [f"it {n}", "other"], "answer_start": [0, 0]}}
        for n in range(40)
    ]
    name = write(tmp_path / "squad", {"train": rows})
    data = prepared(tmp_path, name=name, form="squad", packing="samples")
    row = data.train[0]
    assert data.tokenizer.decode(row["input_ids"]) == "<bos>C0.\nQuestion: What?\nAnswer: it 0<eos>"
    assert data.tokenizer.decode(row["labels"][row["labels"] != IGNORED]) == " it 0<eos>"


class TestLanguages:
    @pytest.fixture
    def copy(self, tmp_path: Path) -> str:
        for language, size in (("en", 60), ("fr", 30), ("rm", 10)):
            write(tmp_path / "wiki" / language, {
                "train": texts(*(f"{language} {n}" for n in range(size))),
                "validation": texts(*(f"{language} v{n}" for n in range(size // 2))),
            })  # fmt: skip
        return str(tmp_path / "wiki")

    @pytest.mark.parametrize("streaming", [False, True])
    def test_in_turn_as_many_of_each(self, copy: str, streaming: bool) -> None:
        data = HubData(
            name=copy, form="wiki40b", languages=("en", "fr", "rm"), streaming=streaming, validation=15, test=0
        )
        found = read_texts(data)
        train = list(found.stream()) if found.stream else list(found.parts["train"])
        assert train == [f"{language} {n}" for n in range(10) for language in ("en", "fr", "rm")]
        assert list(found.parts["validation"]) == [
            f"{language} v{n}" for n in range(5) for language in ("en", "fr", "rm")
        ]

    def test_how_many_is_said(self, copy: str) -> None:
        found = read_texts(HubData(name=copy, form="wiki40b", languages=("en", "rm"), test=0))
        assert found.notes == ("training samples by language: 10 of 60 en, 10 of 10 rm.",)

    def test_or_all_there_are(self, copy: str) -> None:
        found = read_texts(HubData(name=copy, form="wiki40b", languages=("en", "fr"), balanced=False, test=0))
        assert len(found.parts["train"]) == 90
        assert len(found.parts["validation"]) == 45

    def test_held_out_evenly_where_the_source_holds_out_nothing(self, tmp_path: Path) -> None:
        for language, size in (("en", 200), ("de", 100)):
            write(tmp_path / "two" / language, {"train": texts(*(f"{language} {n}" for n in range(size)))})
        found = read_texts(HubData(name=str(tmp_path / "two"), languages=("en", "de"), test=0.1))
        first = [text.split()[0] for text in found.parts["validation"]]
        assert first == ["en", "de"] * 10
        assert not set(found.parts["train"]) & {*found.parts["validation"], *found.parts["test"]}

    def test_one_that_is_not_there(self, copy: str) -> None:
        with pytest.raises(UserError, match=r"unknown language \(data\.languages\) 'fra'\. Did you mean 'fr'\?"):
            read_texts(HubData(name=copy, form="wiki40b", languages=("fra",)))


def test_a_limit_reads_no_more_than_it_says(tmp_path: Path) -> None:
    name = write(tmp_path / "web", {"train": texts(*(f"page {n}" for n in range(500)))})
    found = read_texts(HubData(name=name, form="fineweb", limit=100)).parts
    assert sum(map(len, found.values())) == 100


def test_any_column_of_any_copy(tmp_path: Path) -> None:
    name = write(tmp_path / "own", {"train": [{"title": f"T{n}", "body": f"B{n}"} for n in range(40)]})
    assert read_texts(HubData(name=name, text="{title}: {body}")).parts["train"][0] == "T0: B0"
    with pytest.raises(UserError, match=r"has not the columns for 'text' \(data\.text\)\. Columns: title, body"):
        read_texts(HubData(name=name))


class TestMistakes:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"name": "wikitxt"}, r"unknown text 'wikitxt'\. Did you mean 'wikitext'\?"),
            ({"name": "ptb", "form": "wiki"}, r"unknown form \(data\.form\) 'wiki'"),
            ({"name": "ptb", "form": "ptb"}, "data.form says what a folder is a copy of, and ptb is no folder"),
            ({"name": "ptb", "languages": ("en",)}, "ptb has no languages to choose from"),
            ({"name": "fineweb"}, "fineweb has up to several terabytes: set data.streaming to true, or data.limit"),
            ({"name": "c4"}, "set data.streaming to true"),
        ],
    )  # fmt: skip
    def test_names(self, fields: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            read_texts(HubData(**fields))

    def test_settings(self) -> None:
        with pytest.raises(UserError, match=r"data\.subset and data\.languages both choose"):
            HubData(name="wiki40b", subset="en", languages=("en",))
        with pytest.raises(UserError, match=r"data\.languages names one twice: en, en"):
            HubData(name="wiki40b", languages=("en", "en"))

    def test_a_hub_out_of_reach(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(
            UserError, match=r"the hub cannot be reached, and ptb-text-only/ptb_text_only \(penn_treebank\)"
        ):
            read_texts(HubData(name="ptb"))

    def test_a_folder_without_data(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="cannot load"):
            read_texts(HubData(name=str(tmp_path)))


def test_every_name_says_where_it_lies() -> None:
    assert {"ptb", "wikitext", "fineweb", "tinystories", "wiki40b"} <= set(CATALOGUE)
    assert all("/" in source.repo for source in CATALOGUE.values())
