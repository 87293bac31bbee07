"""Prepared data: parts of a task, what they hold out, how they are kept, and what does not fit."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from layerwise.config.build import Layer, configure
from layerwise.data.tasks.registry import task_names
from layerwise.errors import UserError
from layerwise.jobs.train import TrainConfig
from layerwise.training.data_config import BytePairs, Characters, FilesData, Pretrained, TaskData
from layerwise.training.packing import IGNORED, pad
from layerwise.training.prepared import PreparedData, prepare_data


@pytest.fixture
def prepare(tmp_path: Path):
    def make(
        name: str = "copy", context: int = 64, seed: int = 0, tokenizer: Any = None, **fields: Any
    ) -> PreparedData:
        sizes = {"train": 300, "validation": 40, "test": 30, **fields}
        return prepare_data(
            TaskData(name=name, **sizes), tokenizer or Characters(), context, seed, tmp_path / "kept", quiet=True
        )

    return make


def asked(data: PreparedData, row: dict[str, torch.Tensor]) -> tuple[str, str]:
    """What a row gives, and what its loss counts."""
    counts = row["labels"] != IGNORED
    return data.tokenizer.decode(row["input_ids"][~counts]), data.tokenizer.decode(row["labels"][counts])


class TestTasks:
    @pytest.mark.parametrize("name", task_names())
    def test_rows_are_the_samples_of_every_task(self, prepare, name: str) -> None:
        data = prepare(name)
        for part in ("validation", "test"):
            rows = data.validation if part == "validation" else data.test["test"]
            assert len(rows) == len(data.samples[part])
            for place in range(5):
                sample, row = data.samples[part][place], rows[place]
                begin = data.prompt_ids(sample.prompt)
                assert row["input_ids"][: len(begin)].tolist() == begin
                rest = row["input_ids"][len(begin) :].tolist()
                assert rest[-1] == data.tokenizer.eos_token_id
                assert data.answer(rest) == sample.answer
                assert data.task.check(sample.prompt, data.answer(rest))

    def test_the_loss_counts_the_answer_and_its_end(self, prepare) -> None:
        data = prepare("reverse", options={"min_length": 3, "max_length": 3})
        given, counted = asked(data, data.train[0])
        assert counted == f"{given.removeprefix('<bos>').removesuffix('>')[::-1]}<eos>"

    def test_or_everything(self, prepare) -> None:
        data = prepare("reverse", loss="all")
        assert all(torch.equal(row["labels"], row["input_ids"]) for row in data.validation)

    def test_of_masked_copies_some_count_wholly(self, prepare) -> None:
        whole = [bool((row["labels"] == row["input_ids"]).all()) for row in prepare("masked_copy").train]
        assert 0.03 < sum(whole) / len(whole) < 0.2

    def test_more_training_samples_leave_the_others_as_they_are(self, prepare) -> None:
        few, many = (prepare(options={"min_length": 8}, train=size) for size in (50, 500))
        for place in range(30):
            assert torch.equal(few.validation[place]["input_ids"], many.validation[place]["input_ids"])
            assert torch.equal(few.test["test"][place]["input_ids"], many.test["test"][place]["input_ids"])

    def test_no_prompt_is_both_trained_on_and_held_out(self, prepare) -> None:
        data = prepare(options={"max_length": 3}, train=2000)
        trained = {asked(data, row)[0] for row in data.train}
        held = {asked(data, row)[0] for rows in (data.validation, data.test["test"]) for row in rows}
        assert not trained & held
        assert {len(prompt) for prompt in trained} == {len("<bos>") + length + 1 for length in (1, 2, 3)}
        left_out = [40 - len(data.validation), 30 - len(data.test["test"])]
        assert min(left_out) > 0
        assert data.report.notes[0].startswith(f"{left_out[0]} of 40 validation samples were left out")
        assert len(data.report.notes) == 2

    def test_longer_test_sets(self, prepare) -> None:
        data = prepare("histogram", options={"max_length": 9}, test_lengths=(12, 30))
        assert set(data.test) == {"test", "test_length_12", "test_length_30"}
        assert {len(asked(data, row)[0].split()) for row in data.test["test_length_30"]} == {32}
        assert {len(row["input_ids"]) for row in data.test["test_length_12"]} == {2 * 12 + 3}
        assert max(len(row["input_ids"]) for row in data.train) == 2 * 9 + 3

    def test_every_pair_of_residues_in_one_part_only(self, prepare) -> None:
        data = prepare("modular_arithmetic", options={"modulus": 11}, train=81, validation=20, test=20)
        rows = [*data.train, *data.validation, *data.test["test"]]
        assert len({tuple(row["input_ids"].tolist()) for row in rows}) == 121

    def test_other_tokenizers_write_a_task_as_well(self, prepare, tiny_model_folder: Path) -> None:
        pairs = prepare("long_addition", tokenizer=BytePairs(vocabulary=270))
        sample = pairs.samples["test"][0]
        ids = pairs.test["test"][0]["input_ids"].tolist()
        assert pairs.answer(ids[len(pairs.prompt_ids(sample.prompt)) :]) == sample.answer
        with pytest.raises(UserError, match=r"does not know .* a symbol of task copy\. Use tokenizer: characters"):
            prepare("copy", tokenizer=Pretrained(name=str(tiny_model_folder)))

    def test_another_seed_is_other_samples(self, prepare) -> None:
        assert prepare(seed=1).digest != prepare(seed=2).digest == prepare(seed=2).digest


class TestKept:
    def test_a_second_call_reads_what_the_first_wrote(self, prepare, tmp_path: Path) -> None:
        first = prepare()
        [folder] = (tmp_path / "kept").iterdir()
        written = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}
        again = prepare()
        assert {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()} == written
        assert again.digest == first.digest
        assert again.tokenizer.get_vocab() == first.tokenizer.get_vocab()
        assert all(torch.equal(a["labels"], b["labels"]) for a, b in zip(first.train, again.train, strict=True))

    def test_equal_texts_are_one_wherever_they_lie_and_changed_ones_are_others(self, tmp_path: Path) -> None:
        def digest_of(name: str, text: str) -> str:
            (tmp_path / name).write_text(text)
            data = FilesData(path=str(tmp_path / name))
            return prepare_data(data, Characters(), 16, cache=tmp_path / "kept", quiet=True).digest

        lines = "some line\n" * 50
        assert digest_of("a.txt", lines) == digest_of("b.txt", lines)
        assert len(list((tmp_path / "kept").iterdir())) == 1
        assert digest_of("a.txt", lines + "another line\n") != digest_of("b.txt", lines)

    def test_several_processes_may_prepare_the_same(self, prepare, tmp_path: Path) -> None:
        with ThreadPoolExecutor(4) as pool:
            digests = {data.digest for data in pool.map(lambda _: prepare(train=2000), range(4))}
        assert len(digests) == 1
        assert len(list((tmp_path / "kept").iterdir())) == 1

    def test_what_was_left_half_written_is_made_again(self, prepare, tmp_path: Path) -> None:
        first = prepare()
        [folder] = (tmp_path / "kept").iterdir()
        shutil.rmtree(folder)
        (folder.parent / f".{folder.name}.half.tmp").mkdir()
        assert prepare().digest == first.digest


class TestMistakes:
    def test_a_sample_over_the_context(self, prepare) -> None:
        with pytest.raises(
            UserError,
            match=r"a sample of copy \(train\) has up to 41 symbols and 2 special tokens, the context holds 42",
        ) as error:
            prepare(context=42)
        assert "context to at least 43" in str(error.value)
        assert len(prepare(context=43).train)

    def test_a_longer_test_sample_over_the_context(self, prepare) -> None:
        with pytest.raises(UserError, match=r"a sample of copy \(test_length_50\) has up to 101 symbols"):
            prepare(test_lengths=(50,))

    def test_a_sample_over_the_context_in_other_tokens(self, prepare) -> None:
        with pytest.raises(UserError, match=r"a sample of long_addition has \d+ tokens, the context holds 16"):
            prepare("long_addition", context=16, tokenizer=BytePairs(vocabulary=260))

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"name": "modular_arithmetic", "train": 20000}, "has 9,409 different samples.*at most 9,339"),
            ({"options": {"max_length": 1, "letters": 2}}, "every sample of copy in validation is also trained on: there are too few different ones"),
            ({"name": "hierarchical_equality", "test_lengths": (9,)}, "samples of task 'hierarchical_equality' have no length"),
            ({"train": 0}, "data.train must be at least 1 sample, got 0"),
            ({"test": -1}, "data.test must be at least 0 samples, got -1"),
            ({"test_lengths": (0,)}, "data.test_lengths must be at least 1, got 0"),
        ],
    )  # fmt: skip
    def test_settings(self, prepare, fields: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=f"(?s){message}"):
            prepare(**fields)

    def test_a_context_of_nothing(self, prepare) -> None:
        with pytest.raises(UserError, match="the context must be at least 2 tokens, got 1"):
            prepare(context=1)

    def test_a_disk_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "kept").write_text("a file")
        with pytest.raises(UserError, match="a file stands where a folder is needed"):
            prepare_data(
                TaskData(train=10, validation=2, test=2), Characters(), 64, cache=tmp_path / "kept", quiet=True
            )


def test_rows_go_through_a_data_loader(prepare) -> None:
    data = prepare()
    batches = list(DataLoader(data.validation, 16, collate_fn=lambda rows: pad(rows, data.tokenizer.pad_token_id)))
    assert sum(len(batch["input_ids"]) for batch in batches) == len(data.validation)
    assert all((batch["labels"][batch["attention_mask"] == 0] == IGNORED).all() for batch in batches)


def test_settings_are_written_as_people_write_them() -> None:
    def data(values: dict[str, Any]) -> Any:
        return configure(TrainConfig, Layer(values, "a file"))

    assert data({"data": "files:a.txt", "tokenizer": "bpe"}).data == FilesData(path="a.txt")
    assert data({"data": "task:sort"}).data == TaskData(name="sort")
    assert data({"tokenizer": {"kind": "pretrained", "name": "gpt2", "crop": True}}).tokenizer == Pretrained(
        "gpt2", True
    )
    with pytest.raises(UserError, match=r"Did you mean 'data\.test_lengths'"):
        data({"data": {"kind": "task", "test_length": [3]}})
