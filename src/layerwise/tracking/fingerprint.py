"""What makes two runs the same work: the job, its config, the model, the data, and the code."""

from __future__ import annotations

import hashlib
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import layerwise
from layerwise.config import flatten, named_code
from layerwise.files import digest, file_digest


def fingerprint(job: str, config: Any, **identity: str) -> str:
    """sha256 over the job, its canonical config, the code, and what ``identity`` names (``model``, ``data``).

    The code is this package's and that of any file or module the config names, such as a probe of one's own.
    """
    named = {name: _source_digest(name) for name in named_code(config)}
    return digest(
        {"job": job, "config": flatten(config), "code": code_identity(), "named": named, "identity": identity}
    )


@cache
def code_identity() -> str:
    """The commit, with a digest of what differs from it in the package, where that is in its git checkout; else the version.

    What else lies in the checkout (results, notebooks, documents) is not code and changes nothing.

    >>> code_identity()
    '3f2c…a1+9be1…' or 'version 0.1.0'
    """
    package = Path(layerwise.__file__).parent
    commit = _git(package, "rev-parse", "HEAD")
    if commit is None or _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return f"version {_version()}"
    dirty = _dirty(package)
    return commit.decode().strip() + (f"+{dirty}" if dirty else "")


def _dirty(package: Path) -> str:
    """Digest of the package's tracked differences and untracked, not ignored files; empty where there are none."""
    changes = _git(package, "diff", "HEAD", "--binary", "--no-ext-diff", "--no-textconv", "--", ".") or b""
    listed = _git(package, "ls-files", "--others", "--exclude-standard", "-z") or b""
    names = [name for name in listed.decode(errors="replace").split("\0") if name and (package / name).is_file()]
    if not changes and not names:
        return ""
    return digest([hashlib.sha256(changes).hexdigest(), {name: file_digest(package / name) for name in names}])[:16]


def _source_digest(name: str) -> str:
    """sha256 of the file behind ``my_probe.py:Probe`` or ``package.module.Class``; empty where there is none to read."""
    path = Path(name.partition(":")[0]).expanduser()
    if path.suffix != ".py":
        try:
            spec = find_spec(name.rpartition(".")[0])
        except (ImportError, ValueError):
            return ""
        path = Path(spec.origin) if spec is not None and spec.origin is not None else path
    return file_digest(path) if path.is_file() else ""


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
