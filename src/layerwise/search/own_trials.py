"""Optuna's storage with a memory for the trial that this process is at, which nobody else writes and so need not be read back."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

T = TypeVar("T")


class OwnTrials(RDBStorage):
    """``RDBStorage`` that answers for the trial it made last, three reads of Optuna's loop for each trial.

    Everything is written to the database as always. Where a write is refused, because others gave the trial up, what is
    remembered is forgotten and the database is asked again.

    A trial's first sign of life is its being made: its heart beats from the second interval on, and each interval this process
    looks once for trials whose heart stopped. Optuna does both for every trial, however short.
    """

    _own: FrozenTrial | None = None
    _newest = (-1, -math.inf)  # the trial made last, and when
    _looked = -math.inf

    def get_trial(self, trial_id: int) -> FrozenTrial:
        own = self._own
        return copy.deepcopy(own) if own is not None and own._trial_id == trial_id else super().get_trial(trial_id)

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        # Optuna's own cache over this storage asks here, the one place where a new trial is known as a whole.
        self._own = None
        made = super()._create_new_trial(study_id, template_trial)
        self._own, self._newest = copy.deepcopy(made), (made._trial_id, time.monotonic())
        return made

    def record_heartbeat(self, trial_id: int) -> None:
        newest, made = self._newest
        if trial_id != newest or time.monotonic() - made >= (self.get_heartbeat_interval() or 0) / 2:
            super().record_heartbeat(trial_id)

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        if time.monotonic() - self._looked < (self.get_heartbeat_interval() or 0):
            return []
        self._looked = time.monotonic()
        return super()._get_stale_trial_ids(study_id)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._write(
            trial_id,
            lambda: super(OwnTrials, self).set_trial_user_attr(trial_id, key, value),
            lambda own: own.user_attrs.update({key: value}),
        )

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._write(
            trial_id,
            lambda: super(OwnTrials, self).set_trial_system_attr(trial_id, key, value),
            lambda own: own.system_attrs.update({key: value}),
        )

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        self._write(
            trial_id,
            lambda: super(OwnTrials, self).set_trial_intermediate_value(trial_id, step, intermediate_value),
            lambda own: own.intermediate_values.update({step: intermediate_value}),
        )

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        def ended(own: FrozenTrial) -> None:
            own.state = state
            if values is not None:
                own.values = list(values)
            if state.is_finished():
                own.datetime_complete = datetime.now()

        return self._write(
            trial_id, lambda: super(OwnTrials, self).set_trial_state_values(trial_id, state, values), ended
        )

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        def suggested(own: FrozenTrial) -> None:
            own.distributions = {**own.distributions, param_name: distribution}
            own.params = {**own.params, param_name: distribution.to_external_repr(param_value_internal)}

        self._write(
            trial_id,
            lambda: super(OwnTrials, self)._set_trial_param(
                trial_id, param_name, param_value_internal, distribution, previous_distribution
            ),
            suggested,
        )

    def _write(self, trial_id: int, write: Callable[[], T], remember: Callable[[FrozenTrial], object]) -> T:
        own, self._own = self._own, None
        done = write()
        if own is not None and own._trial_id == trial_id:
            remember(own)
        self._own = own
        return done
