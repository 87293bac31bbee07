"""The same tokens of two models: which rows are compared, and their vectors at many sites, a window of texts at a time.

What is compared depends on the texts and a seed alone: not on the order of the texts, nor on batches or padding.
"""

from __future__ import annotations

import ctypes
import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from layerwise.comparison.alignment import align
from layerwise.data.batching import token_budget_batches
from layerwise.errors import UserError
from layerwise.models.batch import make_batch
from layerwise.models.model import LanguageModel
from layerwise.models.sites import parse_site
from layerwise.models.taps import Read, run
from layerwise.models.tokens import Tokens

WINDOW_BYTES = 128 * 2**20  # of both models' vectors held at once
CPU_TOKENS = 256  # padded tokens a batch: on a CPU more are no faster, and a window's few texts would all be padded to its longest
SHARE_OF_A_TEXT = 4  # one text fills a quarter of a window at most: tokens of one text are alike


@dataclass(frozen=True)
class Rows:
    """Which tokens are compared.

    texts: the texts chosen, in a random order that depends on their content. a, b: of each, the places in the sequence of the
    one and the other model, equally many. one_tokenizer: whether both read the same token ids.
    """

    tokens_a: Tokens
    tokens_b: Tokens
    texts: tuple[int, ...]
    a: tuple[np.ndarray, ...]
    b: tuple[np.ndarray, ...]
    one_tokenizer: bool

    @classmethod
    def of(
        cls,
        model_a: LanguageModel,
        model_b: LanguageModel,
        texts: Sequence[str],
        most: int | None = None,
        most_of_a_text: int | None = None,
        max_length: int | None = None,
        seed: int = 0,
    ) -> Rows:
        """The tokens both models read, ``most`` at most: the user's own, but for the first of a sequence.

        Many models write something of their own on the first token, hundreds of times larger than anything else. Where the two
        tokenizers differ, those tokens are compared after which both have read equally much. ``most_of_a_text`` are spread evenly.
        Raises UserError where that leaves no token.
        """
        if isinstance(texts, str) or not len(texts):
            raise UserError("a comparison inside two models needs a list of texts, and at least one.")
        lengths = [length for length in (max_length, model_a.max_length, model_b.max_length) if length is not None]
        limit = min(lengths, default=None)
        tokens_a, tokens_b = (model.tokenize(texts, max_length=limit) for model in (model_a, model_b))
        pairs = zip([*tokens_a.ids, *tokens_a.special], [*tokens_b.ids, *tokens_b.special], strict=True)
        one = all(np.array_equal(left, right) for left, right in pairs)
        chosen: list[int] = []
        rows: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        left = most
        for text in _shuffled(texts, seed):
            places = _same_places(tokens_a, text) if one else _aligned_places(texts[text], tokens_a, tokens_b, text)
            count = len(places[0])
            kept = count if most_of_a_text is None else min(count, most_of_a_text)
            kept = kept if left is None else min(kept, left)
            if kept:
                spread = np.arange(kept) * count // kept
                chosen.append(text)
                for side, place in zip(rows, places, strict=True):
                    side.append(place[spread])
            if left is not None and (left := left - kept) == 0:
                break
        if not chosen:
            raise UserError(
                "no token of these texts can be compared: each has one token at most, and the first is left out."
            )
        return cls(tokens_a, tokens_b, tuple(chosen), tuple(rows[0]), tuple(rows[1]), one)

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.a)

    def windows(self, at_once: int, at_least: int = 1) -> list[slice]:
        """Stretches of the chosen texts of about ``at_once`` tokens; none, if it can be, has fewer than ``at_least``."""
        counts = [len(rows) for rows in self.a]
        bounds, held = [0], 0
        for index, count in enumerate(counts):
            if held and held + count > at_once:
                bounds.append(index)
                held = 0
            held += count
        if held < at_least and len(bounds) > 1:
            bounds.pop()
        return [slice(start, stop) for start, stop in zip(bounds, [*bounds[1:], len(counts)], strict=True)]


def _shuffled(texts: Sequence[str], seed: int) -> list[int]:
    """The texts in an order that follows from each one's own content: any other order of the input gives the same texts."""
    keys = [hashlib.sha256(f"{seed} {text}".encode("utf-8", "surrogatepass")).digest() for text in texts]
    return sorted(range(len(texts)), key=lambda index: keys[index])


def _same_places(tokens: Tokens, text: int) -> tuple[np.ndarray, np.ndarray]:
    own = ~tokens.special[text]
    own[0] = False
    places = np.flatnonzero(own)
    return places, places


def _aligned_places(written: str, a: Tokens, b: Tokens, text: int) -> tuple[np.ndarray, np.ndarray]:
    """The last tokens of all stretches that both tokenizers begin and end at, the first token of a sequence left out."""
    own_a, own_b = (np.flatnonzero(~tokens.special[text]) for tokens in (a, b))
    found = align(written, a.need_offsets()[text][own_a], b.need_offsets()[text][own_b])
    last_a, last_b = own_a[found.a[1:] - 1], own_b[found.b[1:] - 1]
    there = (last_a > 0) & (last_b > 0)
    return last_a[there], last_b[there]


def sites_of(model: LanguageModel, spec: str | Sequence[str]) -> list[str]:
    """The sites meant, canonical. Raises UserError for attention patterns, whose width is the text's length."""
    sites = model.sites.expand(spec)
    for site in sites:
        if parse_site(site).kind == "pattern":
            raise UserError(f"{site} is no vector of a token: attention patterns are compared head by head.")
    return sites


def read_rows(
    model: LanguageModel,
    tokens: Tokens,
    texts: Sequence[int],
    rows: Sequence[np.ndarray],
    sites: Sequence[str],
    token_budget: int = 2048,
) -> dict[str, Tensor]:
    """By site the vectors ``(total rows, width)`` of some rows of some texts, in the order given, heads side by side.

    float32 on the model's device if that is a GPU, else on the CPU. Nothing else of a forward is kept.
    """
    numbers = np.asarray(texts)
    starts = np.concatenate([[0], np.cumsum([len(places) for places in rows])])
    device = model.device if model.device.type == "cuda" else torch.device("cpu")
    # One large block where the widths are known: many small ones would stay with the process after they are freed.
    widths = [model.sites.width_of(site) for site in sites]
    known = [width for width in widths if width is not None]
    out: dict[str, Tensor] = {}
    if len(known) == len(sites):
        blocks = torch.empty(int(starts[-1]) * sum(known), device=device).split(
            [int(starts[-1]) * width for width in known]
        )
        out = {site: block.view(-1, width) for site, block, width in zip(sites, blocks, known, strict=True)}
    budget = token_budget if device.type == "cuda" else min(token_budget, CPU_TOKENS)
    for batch_rows in token_budget_batches(tokens.lengths[numbers], budget):
        batch = make_batch(model, tokens, numbers[batch_rows])
        lines, columns = [], []
        for line, index in enumerate(batch_rows):
            first = int(batch.mask[line].long().argmax())
            columns.append(torch.from_numpy(rows[index]) + first)
            lines.append(torch.full((len(rows[index]),), line))
        line_of, column_of = torch.cat(lines).to(model.device), torch.cat(columns).to(model.device)
        into = torch.cat([torch.arange(int(starts[index]), int(starts[index + 1])) for index in batch_rows]).to(device)

        def keeping(site: str, place: tuple[Tensor, Tensor] = (line_of, column_of), into: Tensor = into) -> Read:
            def read(value: Tensor) -> Tensor:
                picked = (
                    value[place[0].to(value.device), place[1].to(value.device)].flatten(1).to(device, torch.float32)
                )
                if site not in out:
                    out[site] = torch.empty(int(starts[-1]), picked.shape[1], device=device)
                out[site][into] = picked
                return value.new_empty(0)

            return read

        run(model, batch, {site: keeping(site) for site in sites})
    return out


@dataclass(frozen=True)
class Window:
    """Both models' vectors of one stretch of texts: by site ``(rows, width)``, row for row the same tokens."""

    a: dict[str, Tensor]
    b: dict[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.a.values())))


def windows(
    model_a: LanguageModel,
    model_b: LanguageModel,
    rows: Rows,
    sites_a: Sequence[str],
    sites_b: Sequence[str],
    at_once: int,
    at_least: int = 1,
    token_budget: int = 2048,
) -> Iterator[Window]:
    """The rows of both models, about ``at_once`` a time. A window is empty once the next one is asked for."""
    for part in rows.windows(at_once, at_least):
        first = read_rows(model_a, rows.tokens_a, rows.texts[part], rows.a[part], sites_a, token_budget)
        second = read_rows(model_b, rows.tokens_b, rows.texts[part], rows.b[part], sites_b, token_budget)
        window = Window(first, second)
        del first, second
        yield window
        # Whoever still names it must not hold two windows at once.
        window.a.clear()
        window.b.clear()
        _give_back_memory()


def _give_back_memory() -> None:
    """Freed memory back to the system: glibc keeps what batches of many shapes have broken up, which grows to a gigabyte."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
        if trim is not None:
            trim(0)


def rows_in_a_window(model_a: LanguageModel, model_b: LanguageModel, sites_a: list[str], sites_b: list[str]) -> int:
    """How many rows of both models' sites ``WINDOW_BYTES`` hold."""
    numbers = sum(
        model.sites.width_of(site) or model.sites.width
        for model, sites in ((model_a, sites_a), (model_b, sites_b))
        for site in sites
    )
    return max(WINDOW_BYTES // (4 * numbers), 64)
