"""The store on disks that fill up or cannot be written, and under kill -9: real file systems, real processes.

A small file system is mounted in a user namespace of the test's own; where the machine does not allow that, the test
skips.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from layerwise.activations.collect import collect
from layerwise.activations.store import Store

from .conftest import TEXTS

pytestmark = pytest.mark.slow

PRELUDE = """
import os, pathlib, shutil, sys, time
import torch
torch.set_num_threads(1)
from layerwise.activations import store as store_module
from layerwise.activations.collect import collect
from layerwise.activations.store import Store
from layerwise.errors import UserError
from layerwise.models.config import ModelConfig
from layerwise.models.loading import load_model
model = load_model(ModelConfig(name=sys.argv[1], device="cpu"))
assert model.sites.n_layers == 2
folder = sys.argv[2]
TEXTS = sys.argv[3].split("|")
def fill(texts, **options):
    return collect(model, texts, "resid_post.*", "none", store=Store(folder), progress=False, **options)
"""


def process(code: str, model_folder: Path, store: Path, *before: str) -> subprocess.Popen[str]:
    command = [
        *before,
        sys.executable,
        "-c",
        PRELUDE + textwrap.dedent(code),
        str(model_folder),
        str(store),
        "|".join(TEXTS),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def mounted(options: str, folder: Path, prepare: str = "true") -> list[str]:
    """The beginning of a command that runs with a file system of its own at ``folder``."""
    folder.mkdir(exist_ok=True)
    shell = f'{prepare}; mount -t tmpfs -o {options} tmpfs {folder} && exec "$@"'
    trial = ["unshare", "-rm", "sh", "-c", shell, "sh", "true"]
    if subprocess.run(trial, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets no test mount a file system")
    return ["unshare", "-rm", "sh", "-c", shell, "sh"]


def finished(run: subprocess.Popen[str]) -> str:
    out, errors = run.communicate(timeout=120)
    assert run.returncode == 0, errors
    return out


def test_a_disk_that_fills_up_is_reported_with_nothing_broken(model, tiny_model_folder, tmp_path) -> None:
    out = finished(
        process(
            """
            store_module.SHARD_BYTES = 40_000
            many = TEXTS * 300
            ran = []
            def fill_the_disk(module, arguments):  # another program, while the work is under way
                ran.append(1)
                if len(ran) == 12:
                    pathlib.Path(folder, "ballast").write_bytes(bytes(shutil.disk_usage(folder).free - 100_000))
            hook = model.module.model.layers[0].register_forward_pre_hook(fill_the_disk)
            try:
                fill(many)
            except UserError as error:
                print(error)
            parts = Store(folder).parts()
            files = sorted(path.name for path in parts[0].folder.iterdir())
            print("stray:", [name for name in files if name.endswith(".tmp")])
            done = len(parts[0].listed())
            print("some done:", 0 < done < len(parts[0].counts))
            print("sound:", set(parts[0].missing(parts[0].columns)) == set(range(done, len(parts[0].counts))))
            hook.remove()
            pathlib.Path(folder, "ballast").unlink()
            tokens = fill(many)
            print("resumed:", 0 < tokens.report.computed_tokens < tokens.report.tokens)
            print("sum: %.3f" % abs(tokens.tokens("resid_post.1").values).sum())
            """,
            tiny_model_folder,
            tmp_path / "disk",
            *mounted("size=3m", tmp_path / "disk"),
        )
    )
    plain = collect(model, TEXTS * 300, "resid_post.*", "none", progress=False).tokens("resid_post.1").values
    lines = out.splitlines()
    assert lines[0].startswith("cannot write")
    assert lines[0].endswith("the disk is full.")
    assert lines[2:6] == ["stray: []", "some done: True", "sound: True", "resumed: True"]
    assert float(lines[6].removeprefix("sum: ")) == pytest.approx(np.abs(plain).sum(), rel=1e-4)


def test_a_disk_too_small_is_refused_before_it_starts(tiny_model_folder, tmp_path) -> None:
    out = finished(
        process(
            """
            model.module.model.layers[1].register_forward_hook(lambda m, a, o: ran.append(o.shape[0]))
            ran = []
            try:
                fill(TEXTS * 2000)
            except UserError as error:
                print(error)
            print("ran:", ran)
            """,
            tiny_model_folder,
            tmp_path / "disk",
            *mounted("size=2m", tmp_path / "disk"),
        )
    )
    assert "the activations would take 13 MB on disk, and 2.1 MB are free" in out
    assert out.splitlines()[-1] == "ran: []"


def test_a_read_only_store_serves_what_it_has_and_says_what_it_cannot(tiny_model_folder, tmp_path) -> None:
    disk = tmp_path / "disk"
    out = finished(
        process(
            """
            fill(TEXTS)
            import subprocess
            subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
            print(fill(TEXTS).report.computed_tokens, fill(TEXTS).tokens("resid_post.0").values.shape[1])
            try:
                fill(TEXTS[:3])
            except UserError as error:
                print(error)
            """,
            tiny_model_folder,
            disk,
            *mounted("size=4m", disk),
        )
    )
    lines = out.splitlines()
    assert lines[0] == "0 16"
    assert lines[1].startswith(f"cannot write {disk}")
    assert lines[1].endswith("the disk is read-only.")


def test_a_killed_extraction_goes_on_at_the_next_shard(model, tiny_model_folder, tmp_path) -> None:
    """kill -9 in the middle; the next process computes what was not listed, and at most one shard twice."""
    store = Store(tmp_path / "store")
    slow = """
        store_module.SHARD_BYTES = 8_000
        model.module.model.register_forward_pre_hook(lambda m, a: time.sleep(0.03))
        fill(TEXTS * 20)
    """
    run = process(slow, tiny_model_folder, store.folder)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (store.parts() and len(store.parts()[0].listed()) >= 3):
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGKILL)
    run.wait(30)
    assert run.returncode == -signal.SIGKILL
    [part] = store.parts()
    done = len(part.listed())
    assert 3 <= done < len(part.counts)
    got = collect(model, TEXTS * 20, "resid_post.*", "none", store=store, progress=False)
    plain = collect(model, TEXTS * 20, "resid_post.*", "none", progress=False)
    left = np.concatenate(
        [part.rows(np.argsort(-plain.tokenized.lengths, kind="stable"), n) for n in range(done, len(part.counts))]
    )
    assert got.report.computed_tokens == plain.tokenized.lengths[left].sum()
    for site in got.sites:
        np.testing.assert_allclose(got.tokens(site).values, plain.tokens(site).values, rtol=1e-5, atol=1e-6)
    assert not list(store.folder.rglob("*.tmp"))
