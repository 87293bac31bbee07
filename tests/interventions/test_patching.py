"""Patching cell by cell: equal to running the whole model with the write in it, however much of it is run again."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from contract import DECODERS, batch_of
from families import build
from torch import Tensor

from layerwise.errors import UserError
from layerwise.interventions.patching import Cell, last_columns, patch
from layerwise.models.batch import Batch
from layerwise.models.model import LanguageModel
from layerwise.models.packed_rest import Packing, can_pack
from layerwise.models.rest import can_reuse, keep_pass
from layerwise.models.taps import run


@cache
def tiny(family: str) -> LanguageModel:
    return LanguageModel(build(family), None, family)


def metric(logits: Tensor, texts: Tensor) -> Tensor:
    return logits[:, 3] - logits[:, 7]


def naive(model, base: Batch, source: Batch, cell: Cell) -> Tensor:
    """The whole model, a write at each site, one cell at a time."""
    values = run(model, source, dict.fromkeys(cell.sites))

    def writing(site: str):
        def write(value: Tensor) -> Tensor:
            new = value.clone()
            for text, (to, of) in enumerate(zip(cell.columns, cell.source_columns or cell.columns, strict=True)):
                for column, other in zip(to, of, strict=True):
                    new[text, column] = values[site][text, other]
            return new

        return write

    logits = run(model, base, writes={site: writing(site) for site in cell.sites}, logits=True)["logits"]
    return metric(logits[torch.arange(len(logits)), last_columns(base)], torch.arange(len(logits)))


def pair(model) -> tuple[Batch, Batch]:
    """Two batches of texts of the same lengths and other tokens."""
    base = batch_of(model, 6, 4)
    source = batch_of(model, 6, 4)
    ids = source.inputs["input_ids"]
    source.inputs["input_ids"] = torch.where(source.mask, (ids + 5) % 20 + 4, ids)
    return base, source


@pytest.mark.parametrize("family", DECODERS)
def test_every_cell_is_what_the_whole_model_gives(family: str) -> None:
    model = tiny(family)
    base, source = pair(model)
    sites = [name for name in ("resid_pre", "attn_out", "mlp_out") if name in model.sites.names()]
    cells = [
        Cell((f"{site}.{layer}",), ((column,), (column,)))
        for site in sites
        for layer in range(model.sites.n_layers)
        for column in range(4)
    ]
    found = patch(model, base, source, cells, metric, token_budget=40)
    for number, cell in enumerate(cells):
        torch.testing.assert_close(found.values[number], naive(model, base, source, cell), atol=2e-5, rtol=2e-5)
    assert (found.values - found.base).abs().max() > 1e-4


def test_attention_over_all_tokens_before_is_reused_and_a_state_is_not() -> None:
    assert can_reuse(tiny("llama"))
    assert can_reuse(tiny("gpt2"))
    assert not can_reuse(tiny("mamba"))


def test_tokens_of_many_cells_share_a_row_where_attention_takes_any_mask() -> None:
    for family, packs in (("llama", True), ("gpt2", True), ("mamba", False)):
        model = tiny(family)
        assert can_pack(model, keep_pass(model, batch_of(model, 6, 4))) == packs, family
    packing = Packing((4, 2), 6)
    assert packing.offsets == [0, 2, 6]
    assert packing.columns.tolist() == [4, 5, 2, 3, 4, 5]
    # Column 3 of the second change: the batch's columns 0 and 1, and its own 2 and 3.
    assert packing.allowed()[3].nonzero()[0].tolist() == [0, 1, 6 + 2, 6 + 3]


def test_heads_windows_of_layers_and_other_columns() -> None:
    model = tiny("llama")
    base, source = pair(model)
    cells = [
        Cell(("z.1.2",), ((2, 3), (1,))),
        Cell(("z.0.0",), ((5,), ())),
        Cell(("mlp_out.0", "mlp_out.1"), ((1,), (1,)), ((4,), (2,))),
        Cell(("k.1.0",), ((1,), (2,))),
        Cell(("pattern.1.1",), ((3,), (2,))),
    ]
    found = patch(model, base, source, cells, metric)
    for number, cell in enumerate(cells):
        torch.testing.assert_close(found.values[number], naive(model, base, source, cell), atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(found.values[1, 1], found.base[1])


def test_a_run_patched_from_itself_is_itself_and_one_patched_everywhere_is_the_source() -> None:
    model = tiny("gpt2")
    base, source = pair(model)
    everywhere = Cell(("resid_pre.0",), (tuple(range(6)), tuple(range(4))))
    same = patch(model, base, base, [everywhere, Cell(("mlp_out.1",), ((2,), (2,)))], metric)
    torch.testing.assert_close(same.values, same.base.expand(2, -1), atol=1e-6, rtol=1e-5)
    other = patch(model, base, source, [everywhere], metric)
    torch.testing.assert_close(other.effects, torch.ones(1, 2), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (Cell(("resid_pre.9",), ((0,), (0,))), "resid_pre"),
        (Cell(("resid_pre.0",), ((0,), (5,))), "column 5 holds no token of text 1 of the base"),
        (Cell(("resid_pre.0",), ((0,),)), "columns of 1 texts, and there are 2"),
        (Cell(("resid_pre.0",), ((0,), (1,)), ((0, 1), (1,))), "as many columns"),
        (Cell(("z.0.7",), ((0,), (1,))), "7"),
    ],
)
def test_what_cannot_be_patched_is_refused(cell: Cell, message: str) -> None:
    model = tiny("llama")
    base, source = pair(model)
    with pytest.raises(UserError, match=message):
        patch(model, base, source, [cell], metric)
