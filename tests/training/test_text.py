"""Texts in files: what a sample is, how parts are held out, which tokens the loss counts, what cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from layerwise.errors import UserError
from layerwise.training.data_config import Characters, FilesData, HubData
from layerwise.training.packing import IGNORED
from layerwise.training.prepared import PreparedData, prepare_data
from layerwise.training.text import read_texts

LINES = [f"line number {number}" for number in range(100)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_text("\n\n".join(LINES) + "\r\n")
    return path


def prepared(tmp_path: Path, path: Path, context: int = 32, **fields: Any) -> PreparedData:
    return prepare_data(FilesData(path=str(path), **fields), Characters(), context, cache=tmp_path / "kept", quiet=True)


def counted(data: PreparedData, row: dict[str, Any]) -> str:
    return data.tokenizer.decode([label for label in row["labels"].tolist() if label != IGNORED])


class TestSamples:
    def test_lines_in_order_validation_before_test_at_the_end(self, file: Path) -> None:
        parts = read_texts(FilesData(path=str(file), packing="samples")).parts
        assert parts == {"train": LINES[:85], "validation": LINES[85:95], "test": LINES[95:]}

    def test_parts_by_number_and_none(self, file: Path) -> None:
        parts = read_texts(FilesData(path=str(file), validation=7, test=0, limit=50)).parts
        assert {name: len(part) for name, part in parts.items()} == {"train": 43, "validation": 7}
        assert parts["validation"][-1] == LINES[49]

    def test_one_document_is_split_by_characters(self, file: Path) -> None:
        text = file.read_bytes().decode()
        parts = read_texts(FilesData(path=str(file), sample="document")).parts
        assert "".join(parts["train"][0] + parts["validation"][0] + parts["test"][0]) == text
        assert len(parts["validation"][0]) == pytest.approx(0.1 * len(text), abs=2)

    def test_a_few_documents_too_the_cut_falling_inside_one(self, tmp_path: Path) -> None:
        for name, text in (("a", "x" * 60), ("b", "y" * 30), ("c", "z" * 10)):
            (tmp_path / f"{name}.txt").write_text(text)
        parts = read_texts(FilesData(path=str(tmp_path), sample="document", validation=0.2, test=0)).parts
        assert parts == {"train": ["x" * 60, "y" * 20], "validation": ["y" * 10, "z" * 10]}

    def test_a_folder_with_a_file_for_each_part(self, tmp_path: Path) -> None:
        for name in ("train", "valid", "test"):
            (tmp_path / f"{name}.txt").write_text(f"{name} one\n{name} two\n")
        (tmp_path / "README.txt").write_text("about these files")
        parts = read_texts(FilesData(path=str(tmp_path))).parts
        assert parts == {
            "train": ["train one", "train two"],
            "validation": ["valid one", "valid two"],
            "test": ["test one", "test two"],
        }

    @pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet", "json"])
    def test_rows_of_tables_through_a_template(self, tmp_path: Path, suffix: str) -> None:
        frame = pd.DataFrame({"q": [f"{n}+1?" for n in range(40)], "a": [f"is {n + 1}" for n in range(40)]})
        path = tmp_path / f"pairs.{suffix}"
        if suffix == "parquet":
            frame.to_parquet(path)
        elif suffix == "csv":
            frame.to_csv(path, index=False)
        else:
            frame.to_json(path, orient="records", lines=suffix == "jsonl")
        train = read_texts(FilesData(path=str(path), text="Q: {q} A: {a}", packing="samples")).parts["train"]
        assert train[:2] == ["Q: 0+1? A: is 1", "Q: 1+1? A: is 2"]
        assert read_texts(FilesData(path=str(path), text="a")).parts["train"][0] == "is 1"

    def test_several_paths(self, tmp_path: Path, file: Path) -> None:
        (tmp_path / "more.txt").write_text("more\n")
        assert read_texts(FilesData(path=(str(tmp_path / "more.txt"), str(file)), limit=2, validation=1, test=0)).parts == {
            "train": ["more"], "validation": [LINES[0]],
        }  # fmt: skip


class TestRows:
    def test_blocks_are_the_text_itself_with_an_end_after_each_sample(self, tmp_path: Path, file: Path) -> None:
        data = prepared(tmp_path, file)
        joined = "".join(f"{line}<eos>" for line in LINES[:85])
        text = "".join(data.tokenizer.decode(row["input_ids"][:-1]) for row in data.train)
        assert joined.startswith(text)
        assert len(text) > len(joined) - 6 * 32
        assert all(len(row["input_ids"]) == 32 for row in data.train)

    def test_a_sample_a_row_begins_and_ends(self, tmp_path: Path, file: Path) -> None:
        data = prepared(tmp_path, file, packing="samples")
        assert [data.tokenizer.decode(row["input_ids"]) for row in data.validation] == [
            f"<bos>{line}<eos>" for line in LINES[85:95]
        ]
        assert data.tokenizer("line")["input_ids"] == data.train[0]["input_ids"][:5].tolist()

    def test_characters_that_training_never_shows_are_counted(self, tmp_path: Path) -> None:
        for name, text in (("train", "abab"), ("validation", "abxy")):
            (tmp_path / f"{name}.txt").write_text(f"{text}\n" * 5)
        data = prepared(tmp_path, tmp_path)
        assert data.report.notes == (
            "10 of 25 tokens of the validation texts are not in the vocabulary and were read as <unk>.",
        )


class TestTooLong:
    def test_refused(self, tmp_path: Path, file: Path) -> None:
        with pytest.raises(
            UserError, match=r"a text has 15 tokens, the context holds 14: 'line number 0'…\.\nSet context"
        ):
            prepared(tmp_path, file, 14, packing="samples")

    def test_cut(self, tmp_path: Path, file: Path) -> None:
        data = prepared(tmp_path, file, 8, packing="samples", too_long="cut")
        assert data.tokenizer.decode(data.train[0]["input_ids"]) == "<bos>line nu"
        assert len(data.train) == 85

    def test_split_so_that_every_token_is_predicted(self, tmp_path: Path, file: Path) -> None:
        data = prepared(tmp_path, file, 8, packing="samples", too_long="split")
        pieces = [data.tokenizer.decode(data.train[row]["input_ids"]) for row in range(3)]
        assert pieces[:2] == ["<bos>line nu", "umber 0<eos>"]
        assert pieces[2] == "<bos>line nu"


class TestMarker:
    @pytest.fixture
    def questions(self, tmp_path: Path) -> Path:
        path = tmp_path / "questions.jsonl"
        rows = [{"text": f"{n}+2? answer {n + 2}."} for n in range(60)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def test_the_loss_counts_what_comes_after_it(self, tmp_path: Path, questions: Path) -> None:
        data = prepared(tmp_path, questions, packing="samples", loss_after=" answer ")
        assert [counted(data, data.train[row]) for row in (0, 7)] == ["2.<eos>", "9.<eos>"]

    def test_in_blocks_too(self, tmp_path: Path, questions: Path) -> None:
        data = prepared(tmp_path, questions, loss_after=" answer ")
        text = "".join(counted(data, {"labels": row["labels"][1:]}) for row in data.train)
        assert "".join(f"{n + 2}.<eos>" for n in range(51)).startswith(text)

    def test_samples_without_it_count_wholly(self, tmp_path: Path, questions: Path) -> None:
        with questions.open("a") as handle:
            handle.write('{"text": "a plain text"}\n' * 9)
        data = prepared(tmp_path, questions, packing="samples", loss_after=" answer ", test=0)
        assert counted(data, data.validation[-1]) == "<bos>a plain text<eos>"

    def test_one_that_no_text_holds(self, tmp_path: Path, questions: Path) -> None:
        with pytest.raises(UserError, match=r"no text holds 'Answer:', after which the loss is to count"):
            prepared(tmp_path, questions, loss_after="Answer:")

    def test_what_it_marks_was_cut_off(self, tmp_path: Path, questions: Path) -> None:
        with pytest.raises(
            UserError, match="the loss counts no token of the train texts: what follows ' answer ' was cut off"
        ):
            prepared(tmp_path, questions, 8, packing="samples", too_long="cut", loss_after=" answer ")


class TestStream:
    def test_it_holds_out_the_first_and_trains_on_the_rest(self, tmp_path: Path, file: Path) -> None:
        data = prepared(tmp_path, file, packing="samples", streaming=True, validation=6, test=4)
        read = [data.tokenizer.decode(row["input_ids"], skip_special_tokens=True) for row in data.validation]
        assert read == LINES[:6]
        trained = [data.tokenizer.decode(row["input_ids"], skip_special_tokens=True) for row in data.train]
        assert sorted(trained) == sorted(LINES[10:])
        assert "train" not in data.report.parts
        assert data.report.notes == ("the tokenizer was learnt from the first 90 texts of the stream.",)

    @pytest.mark.parametrize("suffix", ["jsonl", "parquet", "csv"])
    def test_tables(self, tmp_path: Path, suffix: str) -> None:
        frame = pd.DataFrame({"body": LINES})
        path = tmp_path / f"rows.{suffix}"
        writers = {
            "jsonl": lambda: frame.to_json(path, orient="records", lines=True),
            "parquet": lambda: frame.to_parquet(path),
        }
        writers.get(suffix, lambda: frame.to_csv(path, index=False))()
        data = prepared(tmp_path, path, text="body", packing="samples", streaming=True, validation=6, test=0, limit=20)
        assert len(list(data.train)) == 20

    def test_a_share_of_what_has_no_end(self, tmp_path: Path, file: Path) -> None:
        with pytest.raises(UserError, match=r"data\.test must be a number of samples, got the share 0\.05"):
            prepared(tmp_path, file, streaming=True, validation=5)

    def test_fewer_than_are_held_out(self, tmp_path: Path, file: Path) -> None:
        with pytest.raises(
            UserError, match=r"the stream has only 100 samples for validation, data\.validation asks for 500"
        ):
            prepared(tmp_path, file, streaming=True, validation=500, test=0)
        with pytest.raises(UserError, match="nothing left to train on after the 100 samples that are held out"):
            prepared(tmp_path, file, streaming=True, validation=100, test=0)

    def test_files_of_two_kinds(self, tmp_path: Path, file: Path) -> None:
        (tmp_path / "b.csv").write_text("text\nx\n")
        with pytest.raises(UserError, match=r"a stream reads files of one kind.*got \.csv, \.txt"):
            prepared(tmp_path, tmp_path, streaming=True, validation=5, test=0)

    def test_bytes_that_are_no_text(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xfd" * 50)
        with pytest.raises(UserError, match=r"cannot read .*a\.txt as a stream: 'utf-8' codec"):
            prepared(tmp_path, tmp_path, streaming=True, validation=1, test=0)


class TestMistakes:
    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("empty.txt", b"", "empty.txt is empty: there is nothing to train on"),
            ("blank.txt", b" \n\n", "blank.txt is empty: there is nothing to train on"),
            ("binary.txt", b"\0\1\2", "binary.txt is a binary file"),
            ("table.csv", b"body,n\nx,1\n", r"table.csv has not the columns for 'text' \(data.text\). Columns: body, n"),
            ("one.txt", b"a\n", r"too few samples \(1\) to hold out 0.05 for test"),
            ("broken.jsonl", b'{"text": 1\n', "broken.jsonl, line 1: not JSON"),
        ],
    )  # fmt: skip
    def test_files(self, tmp_path: Path, name: str, content: bytes, message: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            prepared(tmp_path, tmp_path / name, packing="samples")

    def test_no_such_file(self, tmp_path: Path, file: Path) -> None:
        with pytest.raises(
            UserError, match=r"no file or folder .*line\.txt \(data\.path\)\. Did you mean 'lines\.txt'\?"
        ):
            prepared(tmp_path, tmp_path / "line.txt")

    def test_a_folder_without_texts(self, tmp_path: Path) -> None:
        (tmp_path / "README").write_text("nothing")
        with pytest.raises(UserError, match="holds no text or table files"):
            prepared(tmp_path, tmp_path)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"validation": 1.5}, r"data.validation is a share below 1, or a number of samples; got 1\.5"),
            ({"validation": -1}, "data.validation is a share"),
            ({"validation": 0.6, "test": 0.4}, "leave nothing to train on: 0.6 and 0.4"),
            ({"limit": 0}, "data.limit must be at least 1 sample, got 0"),
            ({"loss_after": ""}, "data.loss_after is empty"),
        ],
    )  # fmt: skip
    def test_settings(self, fields: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            FilesData(path="x", **fields)
        with pytest.raises(UserError, match=message):
            HubData(name="ptb", **fields)

    def test_no_validation(self, tmp_path: Path, file: Path) -> None:
        with pytest.raises(UserError, match=r"there are no validation texts: set data\.validation above 0"):
            prepared(tmp_path, file, validation=0)
