"""Pushing to and pulling from a local server that answers as the hub does: it keeps commits, and refuses who brings no token."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from families import texts, tiny

from layerwise.errors import UserError
from layerwise.interventions.exchange.hub import pull, push
from layerwise.interventions.exchange.reading import read
from layerwise.interventions.intervened import Intervened
from layerwise.interventions.plan import Plan
from layerwise.models.batch import make_batch

Commits = dict[str, list[tuple[str, dict[str, bytes]]]]  # of each repository: a commit's name and all files


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Commits]:
    kept: Commits = {}

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET(body=False)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            parts = self.path.split("?")[0].strip("/").split("/")
            if self.headers.get("Authorization") != "Bearer hf_let_me":
                self._answer(401, {"error": "Invalid credentials"})
            elif parts[1:] == ["validate-yaml"]:
                self._answer(200, {"errors": [], "warnings": []})
            elif parts[1:] == ["repos", "create"]:
                said = json.loads(body)
                name = f"{said.get('organization') or 'me'}/{said['name']}"
                kept.setdefault(name, [])
                self._answer(200, {"url": f"{endpoint}/{name}", "id": name})
            elif "preupload" in parts:
                files = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in json.loads(body)["files"]
                ]
                self._answer(200, {"files": files})
            else:
                name = "/".join(parts[2:4])
                files = dict(kept[name][-1][1]) if kept[name] else {}
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                sha = hashlib.sha1(str(len(kept[name])).encode()).hexdigest()
                kept[name].append((sha, files))
                self._answer(200, {"success": True, "commitOid": sha, "commitUrl": f"{endpoint}/{name}/commit/{sha}"})

        def do_GET(self, body: bool = True) -> None:
            parts = self.path.split("?")[0].strip("/").split("/")
            name = "/".join(parts[2:4]) if parts[0] == "api" else "/".join(parts[:2])
            if name not in kept:
                self._answer(404, {}, {"X-Error-Code": "RepoNotFound"})
                return
            revision = parts[5] if parts[0] == "api" and len(parts) > 5 else parts[3] if parts[0] != "api" else "main"
            sha, files = next((one for one in kept[name] if one[0] == revision), kept[name][-1])
            if revision not in (sha, "main"):
                self._answer(404, {}, {"X-Error-Code": "RevisionNotFound"})
            elif parts[0] == "api" and parts[4:5] == ["tree"]:
                listed = [
                    {"type": "file", "path": file, "size": len(content), "oid": sha} for file, content in files.items()
                ]
                self._answer(200, listed)
            elif parts[0] == "api":
                self._answer(200, {"id": name, "sha": sha, "siblings": [{"rfilename": file} for file in files]})
            else:
                content = files["/".join(parts[4:])]
                etag = hashlib.sha256(content).hexdigest()
                self._answer(200, content, {"X-Repo-Commit": sha, "ETag": f'"{etag}"'}, body)

        def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None, body: bool = True) -> None:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for key, value in ({"Content-Type": "application/json"} | (headers or {})).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_let_me")
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield kept
    server.shutdown()


def intervened(strength: float) -> Intervened:
    steps = [
        {
            "operation": {"kind": "add", "vector": "given", "strength": strength},
            "sites": "resid_post.0",
            "when": "every",
            "name": "push",
        },
        {
            "operation": {"kind": "low_rank_rotation", "rank": 2},
            "sites": "mlp_out.1",
            "source": "base",
            "source_positions": 0,
        },
    ]
    return Intervened(tiny("llama"), Plan.of({"steps": steps}), given={"push": torch.arange(16.0)})


def test_what_is_pushed_is_pulled(commits: Commits) -> None:
    batch = make_batch(tiny("llama"), texts(5, 3), range(2))
    first = push(intervened(1.0), "me/kinder")
    push(intervened(2.0), "me/kinder", message="Stronger")
    assert sorted(commits["me/kinder"][-1][1]) == ["README.md", "plan.json", "tensors.safetensors"]
    card = commits["me/kinder"][-1][1]["README.md"].decode()
    assert "tags: [layerwise, steering]" in card
    assert "add(strength=2.0, vector=given)" in card
    with torch.no_grad():
        assert torch.equal(read("me/kinder", tiny("llama"))(batch).logits, intervened(2.0)(batch).logits)
        older = read("me/kinder", tiny("llama"), revision=first.rpartition("/")[2])
        assert torch.equal(older(batch).logits, intervened(1.0)(batch).logits)


def test_code_and_other_files_are_not_pulled(commits: Commits) -> None:
    push(intervened(1.0), "me/kinder")
    sha, files = commits["me/kinder"][-1]
    commits["me/kinder"][-1] = (sha, files | {"modeling.py": b"boom", "model.safetensors": b"", "evil.pkl": b""})
    assert sorted(file.name for file in pull("me/kinder").iterdir()) == ["plan.json", "tensors.safetensors"]


def test_refusals_are_said(commits: Commits, monkeypatch: pytest.MonkeyPatch) -> None:
    push(intervened(1.0), "me/kinder")
    with pytest.raises(UserError, match="no repository 'me/absent' on the hub, or it is private"):
        pull("me/absent")
    with pytest.raises(UserError, match="me/kinder has no such revision"):
        pull("me/kinder", "v9")
    with pytest.raises(UserError, match="'a/b/c' is no repository: write owner/name"):
        pull("a/b/c")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(UserError, match="the hub does not let you push to me/kinder: set HF_TOKEN"):
        push(intervened(1.0), "me/kinder")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="cannot be reached from here"):
        push(intervened(1.0), "me/kinder")
    with pytest.raises(UserError, match="'me/other' is no folder here, and the hub cannot be reached to fetch it"):
        read("me/other", tiny("llama"))
