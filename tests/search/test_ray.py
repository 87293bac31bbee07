"""Searches and extraction on the workers of Ray: a cluster of the command's own, one that runs already, and after kills."""

from __future__ import annotations

import random
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .commands import Place, check_whole

pytestmark = pytest.mark.slow
RAY = ("--executor", "ray", "--workers", "2")
SPACE = {
    "sites": "resid_post.*",
    "poolers": "last,mean,max,min,first,sum",
    "probe": ["ridge", "lda", "mass_mean", "nearest_centroid", {"kind": "custom", "path": "my_probe.py:Mine"}],
}
WORDS = [
    "the",
    "city",
    "of",
    "paris",
    "is",
    "in",
    "france",
    "and",
    "not",
    "larger",
    "than",
    "rome",
    "good",
    "bad",
    "movie",
    "was",
    "very",
    "true",
    "false",
]


@pytest.fixture(autouse=True)
def _installed() -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")


@pytest.fixture
def own_probe(tmp_path: Path) -> None:
    """A probe of one's own, named by a path relative to the working folder."""
    text = "from sklearn.linear_model import RidgeClassifier\n\n\nclass Mine(RidgeClassifier):\n    pass\n"
    (tmp_path / "my_probe.py").write_text(text)


def test_sixty_points_on_a_cluster_of_ones_own(place: Place, config: Callable[..., Path], own_probe: None) -> None:
    path = config(study="ray", space=SPACE)
    command = place.start(path, *RAY)
    assert command.wait() == 0, command.text()
    check_whole(place, "ray", 60)
    trials = place.study("ray").get_trials(deepcopy=False)
    assert len(trials) == 60
    assert len({trial.user_attrs["claim"]["worker"]["pid"] for trial in trials}) == 2


@pytest.mark.thorough
def test_a_search_on_ray_that_is_killed_goes_on(place: Place, config: Callable[..., Path]) -> None:
    path = config(study="killed", budget={"repeats": 4})
    for whom in ("parent", "group"):
        command, before = place.start(path, *RAY), place.done()
        command.until(lambda before=before: place.done() >= before + 2)  # type: ignore[misc]
        command.kill(whom)
    last = place.start(path, *RAY)
    assert last.wait() == 0, last.text()
    check_whole(place, "killed", 18)


@pytest.fixture
def address(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A cluster that runs already, started in another folder, and the token that lets its users in."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    folder = tmp_path_factory.mktemp("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = "import sys; from ray.scripts.scripts import main; sys.exit(main())"
    command = [
        sys.executable, "-c", start, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2",
        "--include-dashboard=false", "--disable-usage-stats", f"--object-store-memory={100 << 20}", f"--temp-dir=/tmp/ray-{port}",
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if "Ray runtime started" in line:
            break
    assert process.poll() is None, "".join(lines)
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait(60)


@pytest.mark.thorough
def test_sixty_points_on_a_cluster_that_runs_already(
    place: Place, config: Callable[..., Path], own_probe: None, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    path = config(study="joined", space=SPACE)
    command = place.start(path, *RAY)
    assert command.wait() == 0, command.text()
    check_whole(place, "joined", 60)


@pytest.mark.thorough
@pytest.mark.parametrize("executor", ["process", "ray"])
def test_extraction_is_shared_by_the_workers(
    executor: str, place: Place, config: Callable[..., Path], tmp_path: Path
) -> None:
    """Enough texts for several shards, in a file named by a relative path."""
    draw = random.Random(0)
    rows = [f"{' '.join(draw.choices(WORDS, k=48))},{index % 2}" for index in range(2000)]
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *rows]))
    base = {"dataset": "texts.csv", "evaluation": {"folds": 2}, "controls": {"shuffles": 0, "control_tasks": 0}}
    model = config(study="unused").read_text().split("model: ")[1].splitlines()[0]
    path = config(study="shards", base={"model": model, **base}, space={"sites": "resid_post.*"})
    command = place.start(path, "--executor", executor, "--workers", "2")
    assert command.wait() == 0, command.text()
    check_whole(place, "shards", 2)
    shards = sorted((tmp_path / "cache").glob("activations/*/*/*.safetensors"))
    assert len(shards) >= 3
    said = [line for line in command.text().splitlines() if line.startswith("collect:")]
    assert len(said) == (2 if executor == "process" else 0), (
        command.text()
    )  # each says what it found left; Ray keeps it to itself
