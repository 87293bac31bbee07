"""The Hugging Face hub and what transformers says when something is missing, told in our own words."""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

import torch
from huggingface_hub import constants, errors, hf_hub_download, try_to_load_from_cache
from safetensors import SafetensorError

from layerwise.errors import UserError, nearest
from layerwise.models.catalogue import CATALOGUE, HubSource

WAYS = (
    "A model is named by an alias ("
    + ", ".join(list(CATALOGUE)[:4])
    + ", …), a hub id (owner/name), a folder, a .gguf file, a wheel, runs:/… or models:/…."
)


def offline() -> bool:
    """True where the hub's host has no address from here: asking anyway would take half a minute of retries."""
    if constants.HF_HUB_OFFLINE:
        return True
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return False
    url = urlparse(constants.ENDPOINT)
    try:
        socket.getaddrinfo(url.hostname, url.port or 443)
    except OSError:
        return True
    return False


def hub_file(repository: str, name: str, revision: str | None) -> str:
    """The local copy of one file of a hub repository, downloaded where it is not in the hub's cache."""
    with explain_loading(f"{repository}/{name}"):
        return hf_hub_download(repository, name, revision=revision, local_files_only=offline())


def snapshot(repository: str, revision: str | None) -> Path | None:
    """The folder of the hub's cache that holds this revision; None where it holds none."""
    found = try_to_load_from_cache(repository, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


@contextmanager
def explain_loading(name: str) -> Iterator[None]:
    """Turn what transformers and the hub raise for a missing, closed or broken model into a UserError naming it."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{name} does not fit into the device's memory.\nTry model.dtype=bfloat16, model.quantization=4bit or model.device=cpu."
        ) from error
    except (
        OSError,
        ValueError,
        ImportError,
        SafetensorError,
        TypeError,
        RuntimeError,
        pickle.UnpicklingError,
    ) as error:
        raise UserError(_explanation(name, error)) from error


def _explanation(name: str, error: Exception) -> str:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    text = " ".join(str(error).split())

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(link, kinds) for link in chain)

    entry = CATALOGUE.get(name)
    full = f"{name} (the hub's {entry.source.id})" if entry and isinstance(entry.source, HubSource) else repr(name)
    alias = "" if entry or "/" in name else nearest(name, CATALOGUE)
    if caused_by(errors.GatedRepoError):
        return (
            f"{name} is gated: its owner gives access on request.\n"
            f"Ask on {constants.ENDPOINT}/{entry.source.id if entry and isinstance(entry.source, HubSource) else name} and set HF_TOKEN in the environment."
        )
    if caused_by(errors.RevisionNotFoundError):
        return f"{name} has no such revision on the hub: check model.revision (a branch, tag or commit)."
    if caused_by(errors.RepositoryNotFoundError):
        return f"no model {full} on the hub, or it is private (then set HF_TOKEN in the environment).{alias}\n{WAYS}"
    if (
        caused_by(errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)
        or "couldn't connect" in text
        or "local_files_only" in text
    ):
        return f"{full} is not on this machine, and the hub cannot be reached to fetch it.{alias}\n{WAYS}\nsmollm2 needs the package index only."
    if "trust_remote_code" in text:
        return (
            f"{name} comes with Python code of its own, which does not run unless you say so.\n"
            "Read that code, then set model.trust_remote_code to true."
        )
    if isinstance(error, pickle.UnpicklingError):
        return (
            f"the weights of {name} are a damaged pickle, or hold objects besides tensors, which could run code: not loaded.\n"
            "Ask for safetensors, or convert them where you trust them."
        )
    if "no file named" in text:
        return f"{name} holds no weights: no model.safetensors beside its config.json.\nrandom_init loads it with random weights."
    if isinstance(error, SafetensorError) or "safetensor" in text.lower():
        return f"the weights of {name} are damaged or cut short: {text[:200]}\nCopy or download them again."
    return f"{name} cannot be loaded: {text[:300]}"
