"""Loading from a hub: a small server that answers as the real one does, since tests have no network."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from test_gguf import write_gguf

COMMITS = {"main": "a" * 40, "step1000": "b" * 40}
REFUSALS = {"closed/model": (403, "GatedRepo"), "missing/model": (404, "RepoNotFound")}


@pytest.fixture(scope="module")
def endpoint(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    unpacked = tmp_path_factory.mktemp("hub") / "tiny.gguf"
    write_gguf(unpacked)

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            owner, name, *rest = self.path.removeprefix("/api/models").strip("/").split("?")[0].split("/")
            status, refusal = REFUSALS.get(f"{owner}/{name}", (200, ""))
            revision = rest[1] if len(rest) > 1 else "main"
            commit = COMMITS.get(revision, revision if revision in COMMITS.values() else None)
            if status == 200 and commit is None:
                status, refusal = 404, "RevisionNotFound"
            content = b""
            if status == 200 and rest[:1] == ["tree"]:
                status, refusal = 404, "EntryNotFound"  # no folder of further chat templates
            elif status == 200 and self.path.startswith("/api/"):
                files = [{"rfilename": file.name} for file in tiny_model_folder.iterdir()]
                content = json.dumps({"id": f"{owner}/{name}", "sha": commit, "siblings": files}).encode()
            elif status == 200:
                file = unpacked if rest[-1] == unpacked.name else tiny_model_folder / rest[-1]
                status, refusal = (200, "") if file.is_file() else (404, "EntryNotFound")
                content = file.read_bytes() if file.is_file() else b""
                if commit == COMMITS["step1000"]:
                    content = content.replace(b'"rms_norm_eps": 1e-06', b'"rms_norm_eps": 0.5')
            self.send_response(status)
            if refusal:
                self.send_header("X-Error-Code", refusal)
            self.send_header("X-Repo-Commit", commit or "")
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


SCRIPT = """
import json, sys
from layerwise.errors import UserError
from layerwise.models.config import ModelConfig
from layerwise.models.loading import load_model
answers = []
for name, revision in json.loads(sys.argv[1]):
    try:
        model = load_model(ModelConfig(name=name, revision=revision))
        answers.append([model.fingerprint, model.module.config.rms_norm_eps, len(model.tokenize(["a city"]).ids[0])])
    except UserError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""


def load_all(endpoint: str, home: Path, names: list[tuple[str, str | None]], **environment: str) -> list:
    """What a fresh process, with this hub, its own hub cache and no token, makes of each name and revision."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(names)],
        env={**kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), **environment},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_hub_models_revisions_and_refusals(endpoint: str, tiny_model_folder: Path, tmp_path: Path) -> None:
    from layerwise.models.loading import load_model

    expected = load_model(str(tiny_model_folder)).fingerprint
    main, checkpoint, closed, missing, no_revision, alias, packed = load_all(
        endpoint,
        tmp_path,
        [
            ("owner/model", None),
            ("owner/model", "step1000"),
            ("closed/model", None),
            ("missing/model", None),
            ("owner/model", "step1"),
            ("gpt2", None),
            ("owner/packed/tiny.gguf", None),
        ],
    )
    assert main == [expected, 1e-06, 3]
    assert checkpoint[0] != expected
    assert checkpoint[1:] == [0.5, 3]
    assert (
        closed
        == f"closed/model is gated: its owner gives access on request.\nAsk on {endpoint}/closed/model and set HF_TOKEN in the environment."
    )
    assert missing.startswith("no model 'missing/model' on the hub, or it is private")
    assert no_revision == "owner/model has no such revision on the hub: check model.revision (a branch, tag or commit)."
    assert alias[0] == expected  # openai-community/gpt2, which this hub answers like any other

    assert packed[1:] == [pytest.approx(1e-5), 6]  # six bytes, six tokens

    offline = load_all(endpoint, tmp_path, [("owner/model", None), ("owner/other", None)], HF_HUB_OFFLINE="1")
    assert offline[0] == main
    assert offline[1].startswith(
        "'owner/other' is not on this machine, and the hub cannot be reached to fetch it.\nA model is named by"
    )
