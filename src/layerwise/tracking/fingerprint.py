"""What makes two runs the same work: the job, its config, the model, the data, and the code."""

from __future__ import annotations

import hashlib
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import layerwise
from layerwise.config import flatten
from layerwise.files import digest, file_digest


def fingerprint(job: str, config: Any, **identity: str) -> str:
    """sha256 over the job, its canonical config, the code, and what ``identity`` names (``model``, ``data``)."""
    return digest({"job": job, "config": flatten(config), "code": code_identity(), "identity": identity})


@cache
def code_identity() -> str:
    """The commit, with a digest of what differs from it, where the package is in its git checkout; else the installed version.

    >>> code_identity()
    '3f2c…a1+9be1…' or 'version 0.1.0'
    """
    package = Path(layerwise.__file__).parent
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return f"version {_version()}"
    commit = _git(package, "rev-parse", "HEAD")
    top = _git(package, "rev-parse", "--show-toplevel")
    if commit is None or top is None:
        return f"version {_version()}"
    dirty = _dirty(Path(top.decode().strip()))
    return commit.decode().strip() + (f"+{dirty}" if dirty else "")


def _dirty(top: Path) -> str:
    """Digest of the tracked differences and of untracked, not ignored files; empty for a clean tree."""
    changes = _git(top, "diff", "HEAD", "--binary", "--no-ext-diff", "--no-textconv") or b""
    names = (
        (_git(top, "ls-files", "--others", "--exclude-standard", "-z") or b"")
        .decode(errors="surrogateescape")
        .split("\0")
    )
    files = {name: file_digest(top / name) for name in sorted(names) if name and (top / name).is_file()}
    if not changes and not files:
        return ""
    return digest(
        [
            hashlib.sha256(changes).hexdigest(),
            {name.encode(errors="replace").decode(): sha for name, sha in files.items()},
        ]
    )[:16]


def _git(folder: Path, *arguments: str) -> bytes | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _version() -> str:
    try:
        return version("layerwise")
    except PackageNotFoundError:
        return layerwise.__version__
