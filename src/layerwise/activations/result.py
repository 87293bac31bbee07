"""What a collection gives: matrices by site and pooler, from memory, from the store or from a person's own arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from layerwise.activations.poolers import as_poolers
from layerwise.activations.shards import Piece
from layerwise.errors import UserError, nearest
from layerwise.files import atomic_file

if TYPE_CHECKING:
    from layerwise.models.tokens import Tokens

Key = tuple[str, str]  # site, pooler label
GIVEN = "given"  # the pooler of arrays that a person brings


@dataclass(frozen=True)
class Report:
    """What a collection cost. ``computed_tokens`` went through the model, the rest of ``tokens`` came from the store."""

    texts: int
    tokens: int
    computed_tokens: int
    truncated: int
    seconds: float
    bytes: int
    notes: tuple[str, ...] = ()

    @property
    def tokens_per_second(self) -> float:
        """Tokens that went through the model, a second; 0 where all came from the store."""
        return self.computed_tokens / self.seconds if self.seconds > 0 else 0.0

    def __str__(self) -> str:
        if not self.computed_tokens:
            return f"{self.texts:,} texts, {self.tokens:,} tokens: all from the store"
        return f"{self.texts:,} texts, {self.computed_tokens:,} tokens in {self.seconds:.1f} s: {self.tokens_per_second:,.0f} tokens/s"


@dataclass(frozen=True)
class TokenActivations:
    """Every token's vector: text i's are ``values[offsets[i]:offsets[i + 1]]``.

    values: (total, width) float32. offsets: (n + 1,) int64.
    """

    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, text: int) -> np.ndarray:
        """(tokens of the text, width)"""
        index = range(len(self))[text]
        return self.values[self.offsets[index] : self.offsets[index + 1]]


@dataclass(frozen=True)
class Activations:
    """Activations of ``n`` texts at (site, pooler) keys, rows in input order.

    tokenized: the texts as the model read them, for token-level labels; None for arrays of a person's own.
    stored: keys of the store's parts that hold these values, for a run to refer to.
    """

    n: int
    columns: Mapping[Key, Sequence[Piece]]
    report: Report | None = None
    tokenized: Tokens | None = None
    stored: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return self.n

    @property
    def keys(self) -> list[Key]:
        """(site, pooler label), in the order asked for."""
        return list(self.columns)

    @property
    def sites(self) -> list[str]:
        return list(dict.fromkeys(site for site, _ in self.columns))

    @property
    def poolers(self) -> list[str]:
        return list(dict.fromkeys(pooler for _, pooler in self.columns))

    def matrix(self, site: str, pooler: str | None = None) -> np.ndarray:
        """(n, width) float32, heads side by side. ``pooler`` may be left out where there is only one.

        A new array each time; what the store holds is read, memory-mapped, now. Raises UserError for a key that was not
        collected, and for token-level ones.
        """
        pieces = self._pieces(site, pooler)
        if any(piece.lengths is not None for piece in pieces):
            raise UserError(f"{site} was collected without pooling: use tokens({site!r}).")
        out: np.ndarray | None = None
        for piece in pieces:
            values = piece.values()
            if out is None:
                out = np.empty((self.n, values.shape[1]), dtype=np.float32)
            out[piece.rows] = values.float().numpy()
        assert out is not None
        return out

    def tokens(self, site: str, pooler: str | None = None) -> TokenActivations:
        """Every token's vector at a site collected with the pooler ``none`` (or ``none@text``)."""
        if pooler is None:
            levels = [label for key, label in self.columns if key == site and label.startswith("none")]
            pooler = levels[0] if len(levels) == 1 else "none"
        pieces = self._pieces(site, pooler)
        lengths = np.zeros(self.n, dtype=np.int64)
        for piece in pieces:
            if piece.lengths is None:
                raise UserError(
                    f"{site} was collected with the pooler {pooler}, not token by token: use matrix({site!r}, {pooler!r})."
                )
            lengths[piece.rows] = piece.lengths
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        out: np.ndarray | None = None
        for piece in pieces:
            values = piece.values().float().numpy()
            if out is None:
                out = np.empty((int(offsets[-1]), values.shape[1]), dtype=np.float32)
            # Where each of the piece's rows goes: its text's start, then one after another.
            assert piece.lengths is not None
            starts = np.cumsum(piece.lengths) - piece.lengths
            within = np.arange(len(values)) - np.repeat(starts, piece.lengths)
            out[np.repeat(offsets[piece.rows], piece.lengths) + within] = values
        assert out is not None
        return TokenActivations(out, offsets)

    def _pieces(self, site: str, pooler: str | None) -> Sequence[Piece]:
        if site not in self.sites:
            raise UserError(
                f"no activations of {site!r} were collected.{nearest(site, self.sites)}\nCollected: {_some(self.sites)}."
            )
        labels = [label for key, label in self.columns if key == site]
        if pooler is None:
            if len(labels) != 1:
                raise UserError(f"{site} was collected under several poolers, name one of them: {', '.join(labels)}.")
            pooler = labels[0]
        if pooler not in labels and pooler != GIVEN:
            pooler = as_poolers(pooler)[0].label
        if pooler not in labels:
            raise UserError(f"{site} was not collected under the pooler {pooler!r}. It was under: {', '.join(labels)}.")
        return self.columns[site, pooler]

    @classmethod
    def from_arrays(cls, arrays: Mapping[str | Key, np.ndarray]) -> Activations:
        """A person's own activations: name or (site, pooler label) → (n, width) numbers.

        A name alone gets the pooler ``given``. Raises UserError where shapes do not fit together, or for NaN and infinity.
        """
        if not arrays:
            raise UserError("no arrays were given.")
        columns: dict[Key, list[Piece]] = {}
        n: int | None = None
        for name, array in arrays.items():
            key = (name, GIVEN) if isinstance(name, str) else (str(name[0]), str(name[1]))
            values = np.asarray(array)
            if values.ndim != 2 or values.dtype.kind not in "fiu" or 0 in values.shape:
                raise UserError(
                    f"activations {key[0]!r} must be numbers of shape (texts, width), got {values.dtype} of shape {values.shape}."
                )
            if n is not None and len(values) != n:
                raise UserError(f"activations {key[0]!r} have {len(values)} rows, the ones before {n}: one row a text.")
            n = len(values)
            # A copy: what is changed in the person's array later must not change these.
            tensor = torch.from_numpy(values.astype(np.float32))
            bad = torch.nonzero(~torch.isfinite(tensor).all(1))
            if len(bad):
                raise UserError(f"activations {key[0]!r} hold NaN or infinity, first in row {int(bad[0])}.")
            columns[key] = [Piece(np.arange(n), lambda tensor=tensor: tensor)]  # type: ignore[misc]
        assert n is not None
        return cls(n, columns)

    @classmethod
    def from_file(cls, path: str | Path) -> Activations:
        """Arrays from a ``.npy``, ``.npz`` or ``.safetensors`` file; nothing pickled is read.

        Names ``site|pooler``, as ``save`` writes them, become keys; other names get the pooler ``given``.
        """
        path = Path(path).expanduser()
        if path.is_dir():
            raise UserError(f"{path} is a folder. Activations come as .npy, .npz or .safetensors files.")
        try:
            if path.suffix == ".npy":
                arrays: dict[str, np.ndarray] = {path.stem: np.load(path, allow_pickle=False)}
            elif path.suffix == ".npz":
                with np.load(path, allow_pickle=False) as opened:
                    arrays = {name: opened[name] for name in opened.files}
            elif path.suffix == ".safetensors":
                arrays = {name: tensor.float().numpy() for name, tensor in load_file(path).items()}
            else:
                raise UserError(f"cannot tell what {path} holds. Activations come as .npy, .npz or .safetensors files.")
        except FileNotFoundError:
            raise UserError(f"there is no file {path}.") from None
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(f"cannot read {path} as activations: {error}") from error
        if not arrays:
            raise UserError(f"{path} holds no arrays.")
        keyed: dict[str | Key, np.ndarray] = {}
        for name, array in arrays.items():
            site, bar, pooler = name.rpartition("|")
            keyed[(site, pooler) if bar else name] = array
        return cls.from_arrays(keyed)

    def save(self, path: str | Path) -> Path:
        """All pooled activations in one safetensors file that ``from_file`` reads; an existing file is replaced."""
        path = Path(path).expanduser()
        tensors = {f"{site}|{pooler}": torch.from_numpy(self.matrix(site, pooler)) for site, pooler in self.columns}
        with atomic_file(path) as temporary:
            save_file(tensors, temporary)
        return path


def _some(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[: most - 1])}, … {names[-1]}"
