"""A model that is under a plan in everything it does: scored, read and compared like any other.

``Intervened`` carries a plan out on texts that it is given. Here the plan stands: whoever runs the module, in whatever batches, with a
cache or without, runs it changed. That needs steps that do the same to every token of every text. The module is a second one
on the same tensors, so the model and what became of it can be compared side by side.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from layerwise.errors import UserError
from layerwise.files import digest
from layerwise.interventions.acting import inputs_of
from layerwise.interventions.cells import put, seen, take, unseen
from layerwise.interventions.intervened import Intervened
from layerwise.interventions.operations.base import Row
from layerwise.interventions.operations.build import Given
from layerwise.interventions.plan import BASE, Plan
from layerwise.interventions.units import Unit, chosen_numbers
from layerwise.models.fingerprint import weights_digest
from layerwise.models.model import LanguageModel
from layerwise.models.sites import SiteMap
from layerwise.models.taps import Write, tapped

_RANDOM = ("resample", "noise")  # what they do to a token depends on what else is in its batch


class ModelUnderPlan(LanguageModel):
    """The same weights, tokenizer and chat frame under a name and fingerprint of its own. Made by :func:`under_plan`."""

    def __init__(self, model: LanguageModel, name: str, mark: str) -> None:
        super().__init__(
            _twin(model.module), model.tokenizer, name, config=model.config, folder=model.folder, frame=model.frame
        )
        self._mark = mark
        self._clean = model

    @property
    def sites(self) -> SiteMap:
        """Those of the model, found and verified before anything was done to it."""
        return self._clean.sites

    @property
    def fingerprint(self) -> str:
        """Of the weights and of what is done to the model: nothing computed with one is taken for the other's."""
        return digest([self._clean.fingerprint, self._mark])


@contextmanager
def under_plan(
    model: LanguageModel,
    plan: Plan,
    name: str,
    texts: Sequence[str] = (),
    *,
    given: Mapping[str, Given] | None = None,
    trust_code: bool = False,
) -> Iterator[ModelUnderPlan]:
    """A model on the same weights with every step acting on every token of every forward, until the context ends.

    Args:
        name: of the changed model; functions that are given are told apart by it.
        given: by step, the vector or function that it calls ``given``.
        texts: what operations that must know the data (``mean``, ``pca``) see.
        trust_code: whether code that the plan names by path may run.

    Raises:
        UserError: for steps that act on some tokens alone, read a source, or draw at random; and where an operation needs texts and there
            are none.
    """
    for step in plan.steps:
        kind = step.operation.kind
        if str(step.positions) != "all":
            raise UserError(
                f"step {step.name} acts at positions {step.positions}: a model that is compared is changed at all of them."
            )
        if step.source or step.into != BASE or step.joined:
            raise UserError(
                f"step {step.name} ({kind}) needs another text to read from, or joins positions: compared texts stand alone."
            )
        if str(step.when) not in ("prompt", "every"):
            raise UserError(
                f"step {step.name} acts when {step.when}: a model that is compared is changed in every forward."
            )
        if kind in _RANDOM or kind == "collect":
            raise UserError(
                f"step {step.name}: {kind} does not make another model of it. Take zero, mean, add, project_out, …."
            )
    intervened = Intervened(model, plan, given=given, trust_code=trust_code)
    if any(unit.operation.fits for unit in intervened.units):
        if not texts:
            raise UserError("an operation of the plan must see texts before it acts, and there are none.")
        intervened.fit([list(texts)])
    inputs: dict[str, Tensor] = {}
    writes: dict[str, Write] = {}
    for site in dict.fromkeys(unit.place.site for unit in intervened.units):
        writes[site] = _standing([unit for unit in intervened.units if unit.place.site == site], inputs)
    reads = inputs_of(intervened.units, inputs)
    mark = digest([plan.plain(), weights_digest(intervened.operations), name if given else ""])
    changed = ModelUnderPlan(model, name, mark)
    with tapped(changed, reads, writes):
        yield changed


def _twin(module: PreTrainedModel) -> PreTrainedModel:
    """The module once more on the same parameters and buffers, with hooks and settings of its own."""
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, shared)


def _standing(units: Sequence[Unit], inputs: dict[str, Tensor]) -> Write:
    """All steps at one site in their order, on all rows of its tensor."""

    @torch.no_grad()
    def write(value: Tensor) -> Tensor:
        for unit in units:
            axis, heads = unit.place.head_axis, unit.place.heads
            tensor = seen(value, axis, None)
            batch, tokens = tensor.shape[:2]
            example = torch.arange(batch, device=tensor.device).repeat_interleave(tokens)
            column = torch.arange(tokens, device=tensor.device).repeat(batch)
            inner = take(seen(inputs[unit.inner], 2, None), example, column, None) if unit.inner else None
            chosen = chosen_numbers(unit, None, 1)
            row = Row(
                example,
                column,
                None,
                inner,
                None if chosen is None else chosen.to(tensor.device).expand(len(example), -1),
            )
            new = unit.operation(take(tensor, example, column, heads), row)
            value = unseen(put(tensor, example, column, heads, new), axis, value)
        return value

    return write
