"""A pretrained tokenizer cropped to the tokens in use: the same tokens for the texts it was cropped to, with small ids.

What makes a token must stay with it: of byte pairs the two parts of each merge, down to single characters, so that any
other text can still be written, in more tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from layerwise.errors import UserError

_PIECE = 1024  # texts tokenized at once


def crop(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer with the tokens ``texts`` use, its special tokens, and what these are made of, in their old order.

    Raises UserError for a kind of tokenizer that cannot be cropped.
    """
    backend: Tokenizer = tokenizer.backend_tokenizer
    whole: dict[str, Any] = json.loads(backend.to_str())
    kind = whole["model"].get("type")
    if kind not in ("BPE", "WordPiece", "WordLevel", "Unigram"):
        raise UserError(f"a tokenizer of kind {kind} cannot be cropped: set tokenizer.crop to false.")
    used = _used_ids(backend, texts) | set(tokenizer.all_special_ids)
    used |= {added["id"] for added in whole["added_tokens"] if added["special"]}
    names = {place: token for token, place in backend.get_vocab(with_added_tokens=True).items()}
    kept = {names[place] for place in used if place in names} | _always(whole)
    if kind == "BPE":
        whole["model"]["merges"] = _merges(whole["model"]["merges"], kept)
    order = [names[place] for place in sorted(names) if names[place] in kept]
    ids = {token: place for place, token in enumerate(order)}
    _set_vocabulary(whole, kind, ids)
    _renumber(whole, ids)
    special = {
        name: value
        for name, value in tokenizer.special_tokens_map.items()
        if isinstance(value, str) and name != "additional_special_tokens"
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(whole)),
        clean_up_tokenization_spaces=False,
        model_max_length=tokenizer.model_max_length,
        **special,
    )


def _used_ids(backend: Tokenizer, texts: Iterable[str]) -> set[int]:
    used: set[int] = set()
    remaining = iter(texts)
    while piece := list(islice(remaining, _PIECE)):
        for row in backend.encode_batch(piece):
            used.update(row.ids)
    return used


def _always(whole: dict[str, Any]) -> set[str]:
    """Tokens any text may need: single characters, bytes, and the one for what is unknown."""
    model = whole["model"]
    tokens = [entry[0] for entry in model["vocab"]] if model["type"] == "Unigram" else list(model["vocab"])
    unknown = model.get("unk_token")
    if model["type"] == "Unigram" and model.get("unk_id") is not None:
        unknown = tokens[model["unk_id"]]
    prefix = model.get("continuing_subword_prefix") or ""
    single = {
        token
        for token in tokens
        if len(token.removeprefix(prefix)) == 1 or (token.startswith("<0x") and len(token) == 6)
    }
    if model["type"] == "WordLevel":
        single = set()
    if unknown is not None:
        single.add(unknown)
    return single


def _merges(merges: list[Any], kept: set[str]) -> list[Any]:
    """The merges that lead to a kept token, in their order; adds to ``kept`` what they pass on the way."""
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]
    makers: dict[str, list[int]] = {}
    for place, (first, second) in enumerate(pairs):
        makers.setdefault(first + second, []).append(place)
    needed: set[int] = set()
    waiting = list(kept)
    while waiting:
        for place in makers.get(waiting.pop(), []):
            if place not in needed:
                needed.add(place)
                waiting += [part for part in pairs[place] if part not in kept]
                kept.update(pairs[place])
    return [merges[place] for place in sorted(needed)]


def _set_vocabulary(whole: dict[str, Any], kind: str, ids: dict[str, int]) -> None:
    model = whole["model"]
    if kind == "Unigram":
        scores = {entry[0]: entry[1] for entry in model["vocab"]}
        if model.get("unk_id") is not None:
            model["unk_id"] = ids[model["vocab"][model["unk_id"]][0]]
        lowest = min(scores.values())
        model["vocab"] = [[token, scores.get(token, lowest)] for token in ids]
    else:
        model["vocab"] = ids
    whole["added_tokens"] = [
        {**added, "id": ids[added["content"]]} for added in whole["added_tokens"] if added["content"] in ids
    ]


def _renumber(whole: dict[str, Any], ids: dict[str, int]) -> None:
    """The new ids where the post-processor names old ones; a saved length or padding is left out."""

    def renumbered(value: Any) -> Any:
        if isinstance(value, dict):
            if "ids" in value and "tokens" in value:
                return {**value, "ids": [ids[token] for token in value["tokens"]]}
            return {key: renumbered(item) for key, item in value.items()}
        if isinstance(value, list):
            if len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int) and value[0] in ids:
                return [value[0], ids[value[0]]]  # BertProcessing and RobertaProcessing: [token, id]
            return [renumbered(item) for item in value]
        return value

    whole["post_processor"] = renumbered(whole["post_processor"])
    whole["padding"] = whole["truncation"] = None
