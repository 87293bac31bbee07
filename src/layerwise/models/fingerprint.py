"""What tells two models apart: a sha256 over every weight, the configuration and the text side.

The weights are hashed as they lie in memory, so that a model gives the same fingerprint wherever it is stored; the
result is remembered by the identity of the files it came from (name, size, time of change), since hashing takes about
a second for each half gigabyte.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layerwise.errors import UserError
from layerwise.files import atomic_file, cache_folder, digest

_WEIGHT_FILES = ("*.safetensors", "*.bin", "*.json")
_NOT_THE_MODEL = {
    "_name_or_path", "name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures", "use_cache",
    "_attn_implementation", "attn_implementation", "_attn_implementation_internal", "quantization_config",
}  # fmt: skip


def weights_digest(module: nn.Module) -> str:
    """sha256 over the name, dtype, shape and bytes of every parameter and persistent buffer; tied weights are read once.

    Raises UserError for weights that are not in memory (``meta``: offloaded to disk by ``device_map``).
    """
    tensors = module.state_dict()
    missing = [name for name, tensor in tensors.items() if _is_tensor(tensor) and tensor.device.type == "meta"]
    if missing:
        raise UserError(
            f"{len(missing)} weights are offloaded and cannot be fingerprinted, {missing[0]} for one.\n"
            "Give the model memory enough, or another device_map."
        )
    jobs: dict[tuple[Any, ...], Tensor] = {}
    keys: dict[str, tuple[Any, ...]] = {}
    for name, tensor in sorted(tensors.items()):
        if _is_tensor(tensor):
            keys[name] = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride(), str(tensor.device))
            jobs.setdefault(keys[name], tensor)
    with ThreadPoolExecutor(max_workers=4) as pool:  # hashlib lets go of the interpreter's lock
        digests = dict(zip(jobs, pool.map(_tensor_digest, jobs.values()), strict=True))
    return digest(
        [[name, str(tensors[name].dtype), list(tensors[name].shape), digests[key]] for name, key in keys.items()]
    )


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)  # quantized layers keep plain values in their state too


def _tensor_digest(tensor: Tensor) -> str:
    raw = tensor.detach().cpu().contiguous().reshape(-1)
    if raw.numel() == 0:
        return hashlib.sha256().hexdigest()
    return hashlib.sha256(raw.view(torch.uint8).numpy().data).hexdigest()


def state_mark(module: nn.Module) -> tuple[tuple[int, int], ...]:
    """Changes whenever a weight is replaced or written in place (by an optimizer, ``load_state_dict``, ``copy_``).

    Writing through ``tensor.data`` goes unseen by PyTorch's version counter, and so here.
    """
    return tuple((tensor.data_ptr(), tensor._version) for tensor in (*module.parameters(), *module.buffers()))


def remembered_weights_digest(module: nn.Module, folder: Path | None, loading: Mapping[str, Any]) -> str:
    """``weights_digest``, looked up by ``folder``'s files and the way they were loaded where that was done before."""
    if folder is None:
        return weights_digest(module)
    files = sorted({file for pattern in _WEIGHT_FILES for file in folder.glob(pattern)})
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    identity = {"folder": str(folder.resolve()), "files": stats, "loading": loading, "class": type(module).__name__}
    note = f"{digest([identity, torch.__version__])[:32]}.json"
    with suppress(OSError, ValueError, KeyError, UserError):
        return str(json.loads((cache_folder("fingerprints") / note).read_text())["weights"])
    found = weights_digest(module)
    with suppress(UserError), atomic_file(cache_folder("fingerprints") / note) as temporary:  # a cache may be read-only
        temporary.write_text(json.dumps({"weights": found}))
    return found


def config_digest(config: Any) -> str:
    """sha256 over what in a transformers configuration decides what the model computes."""
    return digest(_pruned(config.to_dict()))


def _pruned(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _pruned(item) for key, item in value.items() if key not in _NOT_THE_MODEL}
    return [_pruned(item) for item in value] if isinstance(value, list | tuple) else value


def tokenizer_digest(tokenizer: Any, frame: Iterable[str | None] = ()) -> str:
    """sha256 over a tokenizer (its whole fast form, or its vocabulary) and the chat frame put round each text."""
    if tokenizer is None:
        return digest([None, *frame])
    if tokenizer.is_fast:
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        content: Any = {key: value for key, value in backend.items() if key not in ("padding", "truncation")}
    else:
        content = {"vocabulary": tokenizer.get_vocab(), "special": tokenizer.special_tokens_map}
    return digest([type(tokenizer).__name__, content, *frame])
