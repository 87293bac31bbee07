"""A model under a plan: an nn.Module whose parameters are the plan's trainable operations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from layerwise.errors import UserError
from layerwise.interventions.acting import Act
from layerwise.interventions.cells import Cells, find_cells
from layerwise.interventions.operations.base import Operation
from layerwise.interventions.operations.build import Given as GivenOperation
from layerwise.interventions.plan import Plan
from layerwise.interventions.positions import Positions
from layerwise.interventions.prompts import as_prompts
from layerwise.interventions.running import Given, Request, Run, Running, Taps, taken
from layerwise.interventions.settings import OperationSettings
from layerwise.interventions.units import Unit, make_units
from layerwise.models.taps import run, single_pass, tapped


@dataclass(frozen=True, eq=False)
class Collected:
    """What a collect step kept at one site: ``values`` (rows, width), and the ``example`` and ``column`` of each row.

    Columns are those of the padded batch; during generation new tokens go on counting.
    """

    values: Tensor
    example: Tensor
    column: Tensor


@dataclass(frozen=True, eq=False)
class Outcome:
    """What an intervened run gave.

    output: what the model returned. collected: by step and site. effects: by step and site, how much the step changed,
    ‖new − old‖ / ‖old‖ over its rows, where it was asked for.
    """

    output: Any
    collected: dict[str, dict[str, Collected]]
    effects: dict[str, dict[str, float]]

    @property
    def logits(self) -> Tensor:
        """(batch, tokens, vocabulary) of a language model, or its classes."""
        return self.output.logits


class Intervened(nn.Module):
    """A model with a plan laid over it; between calls the model is as it was.

    Intervened
    ├── plan         what is done: ``print(intervened.plan)``
    ├── operations   ModuleDict, one per step and place (or per shared name): what is trained and saved
    └── model        not a part of it, so neither trained nor saved, unless ``train_model``: then ``module`` is

    >>> Intervened(model, Plan.read("steps: [{operation: zero, sites: mlp_out.3}]"))(["The city of Paris"]).logits  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Any,
        plan: Plan,
        *,
        given: Mapping[str, GivenOperation] | None = None,
        example: Run | None = None,
        train_model: bool = False,
        trust_code: bool = True,
        widths: Mapping[str, int | None] | None = None,
    ) -> None:
        """model: a LanguageModel or TorchModel. given: by step, the vector or function that it calls ``given``.

        example: a batch that tells how wide a plain module's sites are, or how many tokens joined positions mean.
        train_model: gradients reach the model too, and its parameters are this module's (interchange intervention training).
        trust_code: whether code that the plan names by path may run. widths: by key of an operation, where it is known.
        """
        super().__init__()
        self.model, self.plan, self.train_model = model, plan, train_model
        prompts = None if example is None else as_prompts(model, example)
        self.units = make_units(
            plan, model, given=given or {}, example=prompts, trust_code=trust_code, widths=widths or {}
        )
        self.operations = nn.ModuleDict({unit.key: unit.operation for unit in self.units})
        self.operations.to(next(model.module.parameters()).device)
        if train_model:
            self.module = model.module

    def forward(
        self,
        base: Run,
        sources: Mapping[str, Given] | None = None,
        *,
        positions: Mapping[str, Any] | None = None,
        subspaces: Mapping[str, Any] | None = None,
        measure: bool = False,
        **arguments: Any,
    ) -> Outcome:
        """The model on ``base`` with the plan carried out.

        base: texts, Prompts or a Batch. sources: by the plan's names, the same, or stored values: (width,), (n, width) or
        (n, tokens, width), by step if they differ; None leaves out a run and its steps.
        positions: by step, positions in place of the plan's: as typed there, or token numbers, a list per text; for both
        runs, or ``{"base": …, "source": …}``. subspaces: by step, which numbers of the operation's space (or parts of its
        partition), one list or one per text. measure: also say how much each step changed. arguments: for the model.
        """
        request = self._request(base, sources, positions, subspaces, measure=measure)
        module = self.model.module
        with self._model_frozen():
            running = self._running(request)
            taps = running.base()
            with tapped(self.model, taps.reads, taps.writes):
                output = module(**request.base.batch.inputs, **{**single_pass(module, module), **arguments})
        return _outcome(output, running.acts)

    @torch.no_grad()
    def generate(
        self,
        base: Run,
        sources: Mapping[str, Given] | None = None,
        *,
        positions: Mapping[str, Any] | None = None,
        subspaces: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Outcome:
        """The model's ``generate`` with the plan carried out, each step when its ``when`` says; ``output`` is what it returns.

        settings: of transformers' generate: sampling, beams, cache. Raises UserError for texts padded on the right, and for
        assisted decoding, whose forwards are not one for each token.
        """
        for name in ("assistant_model", "prompt_lookup_num_tokens", "prefill_chunk_size"):
            if settings.get(name):
                raise UserError(
                    f"generate with {name} does not run one forward for each token, so a plan cannot act in it."
                )
        prompts = as_prompts(self.model, base, side="left" if "decoder." not in self.model.sites.stacks else None)
        inputs = {name: prompts.batch.inputs[name] for name in ("input_ids", "attention_mask")}
        with self.generating(prompts, sources, positions=positions, subspaces=subspaces) as acts:
            output = self.model.module.generate(**inputs, **settings)
        return _outcome(output, acts)

    @contextmanager
    def generating(
        self,
        base: Run,
        sources: Mapping[str, Given] | None = None,
        *,
        positions: Mapping[str, Any] | None = None,
        subspaces: Mapping[str, Any] | None = None,
    ) -> Iterator[list[Act]]:
        """The plan carried out in one generation of the model from ``base``, whoever runs it: the ``around`` of ``continue_texts``.

        Raises UserError for texts padded on the right.
        """
        prompts = as_prompts(self.model, base)
        if "decoder." not in self.model.sites.stacks and not bool(prompts.batch.mask[:, -1].all()):
            raise UserError(
                "texts that go on must be padded on the left: make_batch(…, side='left'), or give the texts."
            )
        running = self._running(self._request(prompts, sources, positions, subspaces, generates=True))
        taps = running.base()
        with tapped(self.model, taps.reads, taps.writes):
            yield running.acts

    def taps(
        self,
        base: Run,
        sources: Mapping[str, Given] | None = None,
        *,
        positions: Mapping[str, Any] | None = None,
        subspaces: Mapping[str, Any] | None = None,
    ) -> Taps:
        """The reads and writes that carry the plan out on ``base``, for a forward of one's own with ``taps.run``.

        The sources have run when it returns.
        """
        with self._model_frozen():
            return self._running(self._request(base, sources, positions, subspaces)).base()

    def clean(self, base: Run, **arguments: Any) -> Any:
        """What the model returns for ``base`` without the plan."""
        prompts, module = as_prompts(self.model, base), self.model.module
        with self._model_frozen():
            return module(**prompts.batch.inputs, **{**single_pass(module, module), **arguments})

    @torch.no_grad()
    def fit(self, batches: Sequence[Run], positions: Mapping[str, Any] | None = None) -> None:
        """Let operations that must know the data (mean, pca) see it: their places, at their positions, run clean."""
        wanted = [unit for unit in self.units if unit.operation.fits]
        rows: dict[str, list[Tensor]] = {}
        for batch in batches:
            prompts = as_prompts(self.model, batch)
            tokens = None if self.model.sites.stacks else prompts.batch.mask.shape[1]
            for unit in wanted:
                said = (positions or {}).get(unit.step.name, str(unit.step.positions))
                cells: Cells = find_cells(Positions(said) if isinstance(said, str) else said, prompts, unit.step.name)

                def read(value: Tensor, unit: Unit = unit, cells: Cells = cells, tokens: int | None = tokens) -> Tensor:
                    rows.setdefault(unit.key, []).append(taken(value, unit.place, cells, tokens).rows.float())
                    return value.new_empty(0)

                run(self.model, prompts.batch, {unit.place.site: read})
        for unit in {unit.key: unit for unit in wanted}.values():
            unit.operation.fit(torch.cat(rows[unit.key]))

    def set_temperature(self, temperature: float) -> None:
        """The temperature of every operation that has one (boundless, mask)."""
        if temperature <= 0:
            raise UserError(f"temperature must be above 0, got {temperature}.")
        for operation in self.operations.values():
            if isinstance(getattr(operation, "temperature", None), Tensor):
                operation.temperature.fill_(temperature)  # type: ignore[operator]

    def penalty(self) -> Tensor:
        """The sum of what operations ask to be kept small: boundaries, shares of masks. 0 where none does."""
        found = [operation.penalty() for operation in self.operations.values() if isinstance(operation, Operation)]
        return torch.stack([value for value in found if value is not None] or [torch.zeros(())]).sum()

    def settings(self) -> dict[str, OperationSettings]:
        """The settings of each operation, by its key."""
        return {unit.key: unit.step.operation for unit in self.units}

    def _request(self, base: Run, sources: Any, positions: Any, subspaces: Any, **how: bool) -> Request:
        prompts = as_prompts(self.model, base)
        return Request(prompts, sources or {}, positions or {}, subspaces or {}, train_model=self.train_model, **how)

    def _running(self, request: Request) -> Running:
        return Running(self.model, self.units, self.plan.order(), request)

    @contextmanager
    def _model_frozen(self) -> Iterator[None]:
        """No gradients for the model's own parameters while it runs; those that train it keep theirs."""
        wanted = [] if self.train_model else [part for part in self.model.module.parameters() if part.requires_grad]
        for parameter in wanted:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in wanted:
                parameter.requires_grad_(True)


def _outcome(output: Any, acts: list[Act]) -> Outcome:
    collected: dict[str, dict[str, Collected]] = {}
    effects: dict[str, dict[str, float]] = {}
    for act in acts:
        name, place = act.unit.step.name, str(act.unit.place)
        if act.kept:
            parts = [torch.cat(part) for part in zip(*act.kept, strict=True)]
            collected.setdefault(name, {})[place] = Collected(*parts)
        if act.effect is not None:
            effects.setdefault(name, {})[place] = float(act.effect)
    return Outcome(output, collected, effects)
