"""What happens to a person's mistakes: a clear message of a few lines, exit code 2, nothing left running or half-written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from layerwise.__main__ import main

REVIEWS = [(f"the movie was {word} .", label) for label, word in enumerate(("bad", "good")) for _ in range(20)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """A working folder with files good and bad, and a tracking database of its own."""
    import shutil

    folder = tmp_path_factory.mktemp("bad_input")
    write = {
        "good.csv": "text,label\n" + "".join(f"{text},{label}\n" for text, label in REVIEWS),
        "one_class.csv": "text,label\n" + "".join(f"{text},1\n" for text, _ in REVIEWS),
        "empty_text.csv": "text,label\n" + "".join(f"{text},{label}\n" for text, label in REVIEWS) + ",1\n",
        "few.csv": "text,label\nthe dog runs,0\nthe cat runs,1\nthe dog sleeps,0\n",
        "words.csv": "text,label\n" + "".join(f"{text},{'good' if label else 'bad'}\n" for text, label in REVIEWS),
        "grades.csv": "text,label\n"
        + "".join(f"{text},{label + i / 100}\n" for i, (text, label) in enumerate(REVIEWS)),
        "crossing.csv": "text,label,who,part\n"
        + "".join(f"{text},{label},a,{'train' if i % 2 else 'test'}\n" for i, (text, label) in enumerate(REVIEWS)),
        "long.csv": "text,label\n"
        + "".join(f"{text * (30 if i == 3 else 1)},{label}\n" for i, (text, label) in enumerate(REVIEWS)),
        "broken.jsonl": '{"text": "the dog runs", "label": 0}\n{"text": "the cat',
        "each_its_own.csv": "text,label\n" + "".join(f"{text},{i}\n" for i, (text, _) in enumerate(REVIEWS)),
        "not_a_list.yaml": "model: [unclosed\n",
        "misspelt.yaml": "modle: smollm2\n",
        "not_an_estimator.py": "class Probe:\n    pass\n",
        "nan_labels.csv": "text,label\n"
        + "".join(f"{text},{'NaN' if i == 3 else label}\n" for i, (text, label) in enumerate(REVIEWS)),
        "one_word.csv": "text,label\n"
        + "".join(f"{text},{'many' if i == 3 else label}\n" for i, (text, label) in enumerate(REVIEWS)),
        "rare.csv": "text,label\n"
        + "".join(f"{text},{'mixed' if i == 3 else label}\n" for i, (text, label) in enumerate(REVIEWS)),
        "accents.csv": "text,étiquette\n" + "".join(f"{text},{label}\n" for text, label in REVIEWS),
        "same_columns.csv": "text,text,label\n" + "".join(f"{text},{text},{label}\n" for text, label in REVIEWS),
        "ragged.csv": "text,label\n" + "".join(f"{text},{label}\n" for text, label in REVIEWS) + "a,b,c,d\n",
        "nothing.csv": "",
        "header.csv": "text,label\n",
        "twice.yaml": "seed: 1\nseed: 2\n",
        "tabs.yaml": "model:\n\tname: smollm2\n",
        "listed.yaml": "- probe\n- extract\n",
        "python.yaml": "model: !!python/object/apply:os.system [echo]\n",
        "five.yaml": "sites: 5\n",
        "loader_fails.py": "def load():\n    return 1 / 0\n",
    }
    for name, text in write.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "picture.csv").write_bytes(bytes(range(256)) * 20)
    (folder / "cut.gguf").write_bytes(b"GGUF\x03\x00\x00\x00" + b"\x05" * 40)
    (folder / "words.gguf").write_text("hello")
    (folder / "cut.whl").write_bytes(b"PK\x03\x04 cut")
    (folder / "folder.yaml").mkdir()
    (folder / "folder.csv").mkdir()
    (folder / "folder.npy").mkdir()
    np.savez(folder / "none.npz")
    np.save(folder / "cube.npy", np.ones((40, 2, 3)))
    (folder / "a_file").write_text("not a folder")
    (folder / "no_config").mkdir()
    (folder / "damaged_probe").mkdir()
    (folder / "damaged_probe" / "probe.json").write_text("{")
    damaged = shutil.copytree(tiny_model_folder, folder / "damaged")
    (damaged / "model.safetensors").write_bytes((damaged / "model.safetensors").read_bytes()[:-100])
    _with_nan(shutil.copytree(tiny_model_folder, folder / "nan_model"))
    np.save(folder / "nan.npy", np.where(np.arange(40)[:, None] == 7, np.nan, np.ones((40, 3))))
    np.save(folder / "short.npy", np.ones((5, 3)))
    np.save(folder / "pickled.npy", np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    return folder


def _with_nan(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture
def run(
    place: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], tuple[int, str]]:
    """Run a command line; returns its exit code and what it said on stderr."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/mlflow.db")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def command(line: str) -> tuple[int, str]:
        arguments = [part.replace("MODEL", str(tiny_model_folder)).replace("~", " ") for part in line.split()]
        code = main(arguments)
        return code, capsys.readouterr().err

    return command


GOOD = "--model MODEL --dataset good.csv --controls.shuffles 0 --controls.control_tasks 0"

# What a person typed (~ stands for a space inside an argument), and what the message must hold.
MISTAKES = {
    "unknown job": ("prob", ["unknown job 'prob'", "Did you mean 'probe'?"]),
    "misspelt field": ("probe --modle smollm2", ["unknown field 'modle'", "Did you mean 'model'?"]),
    "misspelt field of a part": (
        f"probe {GOOD} --evaluation.fold 3",
        ["evaluation.fold", "Did you mean 'evaluation.folds'?"],
    ),
    "misspelt setting of a probe": (
        f"probe {GOOD} --probe ridge --probe.aplha 1",
        ["probe.aplha", "Did you mean 'probe.alpha'?"],
    ),
    "setting of another probe": (f"probe {GOOD} --probe ridge --probe.C 1", ["probe.C", "logistic"]),
    "text for a number": (f"probe {GOOD} --seed abc", ["seed", "'abc'", "a whole number"]),
    "text for a switch": (f"probe {GOOD} --controls.random_twin maybe", ["controls.random_twin", "maybe", "true"]),
    "unknown choice": (f"probe {GOOD} --layers middle", ["layers", "middle", "concat"]),
    "unknown probe": (f"probe {GOOD} --probe lgistic", ["lgistic", "logistic"]),
    "unknown pooler": (f"probe {GOOD} --poolers men", ["men", "mean"]),
    "quantile out of range": (f"probe {GOOD} --poolers quantile:1.5", ["1.5", "0", "1"]),
    "config file missing": ("probe --config nowhere.yaml", ["nowhere.yaml"]),
    "config file malformed": ("probe --config not_a_list.yaml", ["not_a_list.yaml"]),
    "config file misspelt": ("probe --config misspelt.yaml", ["modle", "Did you mean 'model'?"]),
    "run to repeat unknown": ("probe --from_run 0123456789abcdef", ["0123456789abcdef"]),
    "unknown site": (f"probe {GOOD} --sites resid_pots.1", ["unknown site 'resid_pots.1'", "resid_post"]),
    "layer out of range": (f"probe {GOOD} --sites resid_post.7", ["resid_post.7", "0", "1"]),
    "head out of range": (f"probe {GOOD} --sites z.0.9", ["z.0.9", "3"]),
    "head where there are none": (f"probe {GOOD} --sites resid_post.0.1", ["resid_post", "no heads"]),
    "site that the architecture lacks": (f"probe {GOOD} --sites router.0", ["router", "resid_post"]),
    "site without its layer": (f"probe {GOOD} --sites resid_post", ["resid_post", "layer"]),
    "unknown alias": ("probe --model smolm2 --dataset good.csv", ["smolm2", "smollm2"]),
    "model folder without a config": ("probe --model no_config --dataset good.csv", ["no_config", "config.json"]),
    "damaged weights": ("probe --model damaged --dataset good.csv", ["damaged"]),
    "NaN activations": ("probe --model nan_model --dataset good.csv", ["NaN", "resid_post.1"]),
    "access token in a config": ("probe --model.model_kwargs.token hf_abc --dataset good.csv", ["HF_TOKEN"]),
    "unknown dtype": (f"probe {GOOD} --model.dtype float31", ["float31", "float32"]),
    "unknown dataset": ("probe --model MODEL --dataset citys", ["citys", "cities"]),
    "data file missing": ("probe --model MODEL --dataset nowhere.csv", ["nowhere.csv"]),
    "data file unreadable": ("probe --model MODEL --dataset picture.csv", ["picture.csv"]),
    "data file cut off": ("probe --model MODEL --dataset broken.jsonl", ["broken.jsonl", "2"]),
    "label column missing": (f"probe {GOOD} --dataset.label lable", ["lable", "label"]),
    "text column missing": (f"probe {GOOD} --dataset.text review", ["review", "text"]),
    "one class only": ("probe --model MODEL --dataset one_class.csv", ["one_class", "class"]),
    "empty text": ("probe --model MODEL --dataset empty_text.csv", ["empty", "4"]),
    "words where numbers are due": (
        "probe --model MODEL --dataset words.csv --dataset.labels.task regression",
        ["regression"],
    ),
    "unknown split": (f"probe {GOOD} --dataset.split dev", ["dev"]),
    "group on both sides": (
        "probe --model MODEL --dataset crossing.csv --dataset.text text --dataset.label label --dataset.group who --dataset.columns.split part",
        ["group a", "splits"],
    ),
    "loader missing": ("probe --model MODEL --dataset loader.py:load", ["loader.py"]),
    "too few rows": ("probe --model MODEL --dataset few.csv", ["5 folds", "got 2"]),
    "text longer than the context": (
        "probe --model MODEL --dataset long.csv --collect.truncation error",
        ["text 3", "64"],
    ),
    "longest length of nothing": (f"probe {GOOD} --collect.max_length 0", ["0"]),
    "test share out of range": (f"probe {GOOD} --evaluation.test_size 1.5", ["test_size", "1.5"]),
    "one fold": (f"probe {GOOD} --evaluation.folds 1", ["folds", "1"]),
    "unknown metric": (f"probe {GOOD} --evaluation.metric acuracy", ["acuracy", "accuracy"]),
    "probe for classes on targets": (
        "probe --model MODEL --dataset grades.csv --dataset.labels.task regression --probe lda",
        ["lda", "regression"],
    ),
    "negative penalty": (f"probe {GOOD} --probe ridge --probe.alpha -1", ["alpha", "-1"]),
    "contrast pairs missing": (f"probe {GOOD} --probe ccs", ["ccs", "contrast"]),
    "transfer to other classes": (f"probe {GOOD} --transfer words.csv", ["'good'", "0, 1", "'words'", "bad, good"]),
    "transfer to itself": (f"probe {GOOD} --transfer good.csv", ["two datasets are called 'good'", "another name"]),
    "transfer of an attention probe": (
        f"probe {GOOD} --transfer words.csv --probe attention --poolers none",
        ["attention", "transfer"],
    ),
    "transfer of contrast pairs": (f"probe {GOOD} --transfer words.csv --probe ccs", ["ccs", "transfer"]),
    "own probe without a path": (f"probe {GOOD} --probe custom", ["path is empty"]),
    "tokens already pooled": (f"probe {GOOD} --probe attention --poolers mean", ["attention", "none"]),
    "own probe missing": (f"probe {GOOD} --probe.kind custom --probe.path nowhere.py:Probe", ["nowhere.py"]),
    "own probe that is none": (f"probe {GOOD} --probe.kind custom --probe.path not_an_estimator.py:Probe", ["Probe"]),
    "own activations with NaN": ("probe --dataset good.csv --activations nan.npy", ["NaN", "7"]),
    "own activations too few": ("probe --dataset good.csv --activations short.npy", ["5", "40"]),
    "own activations pickled": ("probe --dataset good.csv --activations pickled.npy", ["pickled.npy"]),
    "store where a file stands": (f"probe {GOOD} --collect.store a_file", ["a_file"]),
    "store that cannot be written": (f"probe {GOOD} --collect.store /sys/layerwise", ["/sys/layerwise"]),
    "output that is there": ("prepare --dataset good.csv --clean false --output damaged", ["damaged"]),
    "output below a file": (
        "prepare --dataset good.csv --clean false --output a_file/x",
        ["a_file/x", "a file stands"],
    ),
    "cleaning that leaves too little": ("prepare --dataset good.csv", ["2 rows", "Cleaning left 2 of 40 rows"]),
    "seed below zero": ("prepare --dataset good.csv --seed -1", ["seed must be between 0 and 4294967295, got -1"]),
    "seed of a dataset": ("prepare --dataset good.csv --dataset.seed -1", ["seed", "-1"]),
    "seed too large": ("extract --model MODEL --dataset good.csv --seed 99999999999", ["seed", "99999999999"]),
    "mapping for a file": ("prepare --dataset good.csv --dataset.mapping imdb", ["mapping cannot apply", "folder"]),
    "revision of a file": ("prepare --dataset good.csv --dataset.revision main", ["revision cannot apply"]),
    "store that cannot be made": (
        "extract --model MODEL --dataset good.csv --store /proc/layerwise",
        ["/proc/layerwise"],
    ),
    "store that is not there": ("store --store nowhere", ["no store nowhere"]),
    "share kept aside out of range": ("online --stopping.held_out 1", ["stopping.held_out", "1.0"]),
    "online for no epochs": ("online --epochs 0", ["epochs must be at least 1, got 0"]),
    "online on no share": ("online --test_size 1", ["test_size", "1.0"]),
    "online on targets": (
        "online --model MODEL --dataset grades.csv --dataset.labels.task regression",
        ["classes", "regression"],
    ),
    "misspelt argument of the online classifier": (
        "online --model MODEL --dataset good.csv --classifier {alhpa:~1}",
        ["the classifier's arguments", "alhpa"],
    ),
    "class that no training text has": (
        "online --model MODEL --dataset each_its_own.csv",
        ["class '", "use more texts"],
    ),
    "probe missing": ("apply --probe latset --prompt hi", ["no probe 'latset'", "Did you mean 'latest'?"]),
    "probe damaged": ("apply --probe damaged_probe --prompt hi", ["probe.json", "damaged"]),
    "no probe logged yet": ("apply --probe latest --prompt hi", ["has logged a probe", "runs:/RUN_ID"]),
    "new tokens named twice": (
        "apply --prompt hi --generate {max_new_tokens:~5}",
        ["max_new_tokens is a field of its own"],
    ),
    "folder for a config": ("probe --config folder.yaml", ["folder.yaml", "folder", "YAML file in it"]),
    "folder for a data file": ("probe --model MODEL --dataset folder.csv", ["folder.csv holds no data files"]),
    "folder for activations": ("probe --dataset good.csv --activations folder.npy", ["folder.npy is a folder"]),
    "activations without arrays": ("probe --dataset good.csv --activations none.npz", ["none.npz holds no arrays"]),
    "activations of every token": ("probe --dataset good.csv --activations cube.npy", ["(texts, width)", "(40, 2, 3)"]),
    "field twice in a config": ("probe --config twice.yaml", ["twice.yaml, line 2", "'seed' appears twice"]),
    "flag twice": (f"probe {GOOD} --seed 1 --seed 2", ["--seed is given twice"]),
    "tabs in a config": ("probe --config tabs.yaml", ["tabs.yaml, line 2", "'\\t'"]),
    "list for a config": ("probe --config listed.yaml", ["listed.yaml", "a mapping", "a list of 2"]),
    "code in a config": ("probe --config python.yaml", ["python.yaml, line 1", "not valid YAML"]),
    "number for a list of texts": ("probe --config five.yaml", ["sites: got 5 from five.yaml", "each text"]),
    "fraction for a whole number": (f"probe {GOOD} --evaluation.folds 2.5", ["'2.5'", "a whole number"]),
    "empty value": (f"probe {GOOD} --seed=", ["seed: got ''", "a whole number"]),
    "value without its flag": (f"probe {GOOD} smollm2", ["got 'smollm2' where a flag was expected"]),
    "label that is NaN": ("probe --model MODEL --dataset nan_labels.csv", ["row 4 has label NaN", "'label'"]),
    "word among targets": (
        "probe --model MODEL --dataset one_word.csv --dataset.labels.task regression",
        ["a regression needs numbers", "holds 'many'"],
    ),
    "class of one row": (
        "probe --model MODEL --dataset rare.csv --evaluation.folds 2",
        ["2 folds need", "class 'mixed' has 1"],
    ),
    "column name without its accent": (
        "probe --model MODEL --dataset accents.csv --dataset.label etiquette",
        ["no column 'etiquette'", "Did you mean 'étiquette'?"],
    ),
    "two columns of one name": (
        "probe --model MODEL --dataset same_columns.csv --dataset.text text",
        ["two columns have the same name"],
    ),
    "row of too many cells": ("probe --model MODEL --dataset ragged.csv", ["row 41", "4 cells where 2 are wanted"]),
    "data file of nothing": ("probe --model MODEL --dataset nothing.csv", ["nothing.csv is empty"]),
    "data file of a header": ("probe --model MODEL --dataset header.csv", ["a header (text, label) and no rows"]),
    "loader that fails": ("probe --model MODEL --dataset loader_fails.py:load", ["ZeroDivisionError"]),
    "negative layer out of range": (f"probe {GOOD} --sites resid_post.-3", ["-3", "-2 to -1"]),
    "range of layers backwards": (f"probe {GOOD} --sites resid_post.1-0", ["resid_post.1-0", "backwards"]),
    "no site": (f"probe {GOOD} --sites=", ["no site was named", "resid_post"]),
    "token that no text has": (f"probe {GOOD} --poolers index:99", ["index:99", "6 tokens"]),
    "batches of nothing": (f"probe {GOOD} --collect.token_budget 0", ["collect.token_budget", "at least 1, got 0"]),
    "GGUF cut off": ("probe --model cut.gguf --dataset good.csv", ["cut.gguf cannot be unpacked", "cut short"]),
    "GGUF that is none": ("probe --model words.gguf --dataset good.csv", ["words.gguf is not a GGUF file"]),
    "wheel cut off": ("probe --model cut.whl --dataset good.csv", ["cut.whl is not a whole wheel"]),
    "file for a model": ("probe --model good.csv --dataset good.csv", ["good.csv is a file", ".gguf"]),
    "model of no run": ("probe --model runs:/abc --dataset good.csv", ["'abc' is no run's id"]),
    "device that is not there": (f"probe {GOOD} --model.device gpu", ["'gpu' cannot be used", "cpu"]),
    "key of no part": ("store --action remove --key nothere", ["'nothere'"]),
    "extraction from an unknown site": ("extract --model MODEL --dataset good.csv --sites mlp_uot.0", ["mlp_uot.0"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_explained(name: str, run: Callable[[str], tuple[int, str]], place: Path) -> None:
    line, expected = MISTAKES[name]
    before = sorted(path.name for path in place.iterdir())
    code, said = run(line)
    message = [row for row in said.splitlines() if not row.startswith(("collect:", "probe:", "note:", "Unpacking "))]
    assert code == 2, said
    assert "Traceback" not in said
    assert message[0].startswith("layerwise: error: ")
    assert 1 <= len(message) <= 3, said
    for part in expected:
        assert part in said, said
    assert not _running(place)
    left = {path.name for path in place.iterdir()} - set(before) - {"mlflow.db", "mlruns", "mlflow.db-journal"}
    assert not {name for name in left if ".tmp" in name or not (place / name).name.startswith(("mlflow", ".mlflow"))}, (
        left
    )


def test_a_failed_run_tells_why(run: Callable[[str], tuple[int, str]], place: Path) -> None:
    import mlflow

    run(f"probe {GOOD} --sites resid_pots.1")
    found = mlflow.MlflowClient(f"sqlite:///{place}/mlflow.db").search_runs(
        ["0"], "tags.`layerwise.error` LIKE '%resid_pots%'"
    )
    assert found
    assert all(one.info.status == "FAILED" for one in found)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("http://127.0.0.1:9", "nothing listens there"),
        ("ftp://files.org", "an address begins with http://"),
        ("localhost:5000", "an address begins with http://"),
        ("sqlite:////no_such_folder/mlflow.db", "there is no folder /no_such_folder"),
        ("sqlite://", "names no file"),
    ],
)
def test_server_that_cannot_be_used(
    uri: str, expected: str, run: Callable[[str], tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    code, said = run(f"probe {GOOD}")
    assert code == 2
    assert uri in said or uri.removeprefix("sqlite:///") in said
    assert expected in said, said
    assert "Traceback" not in said


def test_there_are_forty_of_them() -> None:
    assert len(MISTAKES) >= 40


def _running(place: Path) -> list[str]:
    import mlflow

    if not (place / "mlflow.db").exists():
        return []
    client = mlflow.MlflowClient(f"sqlite:///{place}/mlflow.db")
    return [one.info.run_id for one in client.search_runs(["0"], "attributes.status = 'RUNNING'")]
