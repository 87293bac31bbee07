"""The models of a comparison: loaded together or one after the other, each under its plan where it has one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from layerwise.errors import UserError
from layerwise.interventions.plan import Plan
from layerwise.interventions.standing import under_plan
from layerwise.jobs.compare_config import ComparedModel
from layerwise.models.loading import load_model
from layerwise.tracking.models import TRACKED, register

_OWN_CODE = re.compile(r".+\.py:\w+")
FITTED_ON = 64  # texts that a plan's operations see


class Models:
    """The models of a comparison by label. As a context it keeps what ``together`` loaded, and lets all of it go.

    Args:
        texts: what operations that must know the data see, such as a mean ablation.
        together: all stay in memory once loaded; else each goes when its use ends.
    """

    def __init__(
        self, configs: Sequence[ComparedModel], labels: Sequence[str], texts: Sequence[str], together: bool
    ) -> None:
        self.configs = dict(zip(labels, configs, strict=True))
        self.texts, self.together = list(texts)[:FITTED_ON], together
        self._held: dict[str, Any] = {}
        self._stack = ExitStack()
        if any(config.name.startswith(TRACKED) for config in configs):
            register()

    def __enter__(self) -> Models:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.clear()
        self._stack.close()

    @property
    def labels(self) -> list[str]:
        return list(self.configs)

    @contextmanager
    def use(self, label: str) -> Iterator[Any]:
        """The model of a label: a LanguageModel, or what one's own code made."""
        if not self.together:
            with self._opened(label) as model:
                yield model
            return
        if label not in self._held:
            self._held[label] = self._stack.enter_context(self._opened(label))
        yield self._held[label]

    @contextmanager
    def _opened(self, label: str) -> Iterator[Any]:
        config = self.configs[label]
        if _OWN_CODE.fullmatch(config.name):
            if config.plan is not None:
                raise UserError(f"{label} is code of your own, which a plan cannot change: leave out its plan.")
            yield own_model(config.name)
            return
        model = load_model(config)
        model.name = label  # a model and its random twin have one name, and messages must tell them apart
        if config.plan is None:
            yield model
            return
        with ExitStack() as stack:
            try:
                changed = stack.enter_context(
                    under_plan(model, Plan.of(config.plan), label, self.texts, trust_code=True)
                )
            except UserError as error:
                raise UserError(f"the plan of {label}: {error}") from None
            yield changed


def own_model(path: str) -> Any:
    """What ``file.py:Name`` makes when it is called without arguments. UserError unless it can take part in a comparison."""
    from layerwise.comparison.scoring import Scorer
    from layerwise.data.custom import call_loader

    made = call_loader(path)
    if not isinstance(made, Scorer):
        missing = [
            name
            for name in ("name", "fingerprint", "option_log_likelihoods", "continuations")
            if not hasattr(made, name)
        ]
        raise UserError(f"{path} makes a {type(made).__name__}, which lacks {', '.join(missing)}.")
    return made
