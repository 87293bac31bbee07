"""Where files go and how they are written: the cache folder, atomic writes, digests.

Nothing here knows what the files hold.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from layerwise.errors import UserError

CACHE_VARIABLE = "LAYERWISE_CACHE"
SHARED_DISKS = frozenset(
    ["nfs", "nfs4", "cifs", "smbfs", "smb3", "afs", "9p", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "orangefs"]
)


def cache_folder(*parts: str) -> Path:
    """A folder under the cache, made if missing: ``$LAYERWISE_CACHE``, else ``~/.cache/layerwise``.

    Raises UserError when it cannot be made.
    """
    root = os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "layerwise"
    folder = Path(root).expanduser().joinpath(*parts)
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def explain_os_errors(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk and a missing permission into a UserError that names ``path``."""
    try:
        yield
    except OSError as error:
        reasons = {
            errno.ENOSPC: "the disk is full",
            errno.EDQUOT: "the disk quota is used up",
            errno.EROFS: "the disk is read-only",
            errno.EACCES: "permission denied",
            errno.EPERM: "operation not permitted",
            errno.ENOTDIR: "a file stands where a folder is needed",
            errno.EEXIST: "a file stands where a folder is needed",
            errno.ENOENT: "no folder can be made there",
        }
        if error.errno not in reasons:
            raise
        raise UserError(
            f"cannot write {path}: {reasons[error.errno]}.\n"
            f"Nothing half-written was left. Free some space or name another folder (${CACHE_VARIABLE} moves the cache)."
        ) from error


def is_on_network(path: Path) -> bool:
    """Whether a file lies, or would, on a file system that other machines share: locks and shared memory do not hold there."""
    resolved = path.resolve()
    mounts = [one for one in psutil.disk_partitions(all=True) if resolved.is_relative_to(one.mountpoint)]
    kind = max(mounts, key=lambda one: len(one.mountpoint)).fstype.lower() if mounts else ""
    return kind in SHARED_DISKS or kind.startswith("fuse.")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it takes its place, on any error it is removed."""
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; on success it takes its place, on any error it is removed.

    Where another process finished the same folder first, theirs stays.
    """
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
        try:
            yield temporary
            # mkdtemp makes it the owner's alone; a cache may be shared.
            temporary.chmod(path.parent.stat().st_mode)
            try:
                os.rename(temporary, path)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def digest(value: Any) -> str:
    """sha256 (64 hex digits) of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 (64 hex digits) of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
