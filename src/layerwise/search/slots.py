"""A study with so many slots as it may have trials: each is tried once, by whichever worker claims it first.

What has been tried is read from the trials alone: a slot is done when a trial of it completed, was pruned, or failed by an error
of its own; busy while a living worker is at it; and free otherwise, which is how the slot of a worker that died comes back.
Claims are made one at a time under the storage's lock, so that workers of any number of machines together try each slot once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from layerwise.errors import UserError
from layerwise.process import is_alive, myself
from layerwise.search.space import Point
from layerwise.search.storage import GRACE_SECONDS, Studies

RECORD = "layerwise"  # the study's attribute that says what it is about
CLAIM = "claim"  # a trial's attribute: which slot, by which worker of which command, when
MOST_LOSSES = 3  # of one slot in one command: a point that kills its workers is given up


class NoFreeSlot(Exception):
    """Every slot is done, or being tried."""


class SlotStudy(optuna.Study):
    """An Optuna study whose ``ask`` claims a slot.

    Args:
        studies: the storage; the study must exist in it.
        slots: how many there are.
        points: the point of each slot, where these are known beforehand; None lets the sampler decide.
        distributions: of every parameter, as Optuna calls them.
        cell_of: what a point needs to be at hand; a worker stays with its cell and keeps away from others' while it can.
        settle_point: chooses the whole point of a trial while no other is chosen; for samplers in a finite space, where two
            workers that chose at the same time could choose the same.
        command: the process that conducts or joined the search; only the losses of its own workers are held against a point.
    """

    def __init__(
        self,
        name: str,
        studies: Studies,
        slots: int,
        points: Sequence[Point] | None = None,
        distributions: Mapping[str, BaseDistribution] | None = None,
        cell_of: Callable[[Point], str] | None = None,
        sampler: optuna.samplers.BaseSampler | None = None,
        pruner: optuna.pruners.BasePruner | None = None,
        settle_point: Callable[[optuna.Trial], Any] | None = None,
        command: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(name, studies.storage, sampler, pruner)
        self.studies, self.slots, self.points = studies, slots, points
        self._id = studies.storage.get_study_id_from_name(name)
        self._distributions, self._settle_point = distributions or {}, settle_point
        self._worker = myself()
        self._command = dict(command or self._worker)
        self._cells = [cell_of(point) for point in points] if points is not None and cell_of is not None else None
        self._cell: str | None = None
        # What is known of the trials, so that each look has to do with the new ones alone.
        self._seen, self._open = 0, dict[int, int]()  # unfinished trials: number → slot
        self._free, self._losses, self._charged = set(range(slots)), Counter[int](), Counter[int]()

    def ask(self, fixed_distributions: Mapping[str, Any] | None = None) -> optuna.Trial:
        """Claim a free slot. Raises NoFreeSlot where there is none."""
        self._thread_local.cached_all_trials = None
        with self.studies.lock():
            self._look()
            while (slot := self._next_slot()) is not None and self._charged[slot] >= MOST_LOSSES:
                self._condemn(slot)
            if slot is None:
                raise NoFreeSlot
            self._cell = self._cells[slot] if self._cells is not None else None
            trial = optuna.Trial(self, self._create(slot, TrialState.RUNNING, self.studies.now()))
            if self._settle_point is not None:
                self._settle_point(trial)
        return trial

    def bury(self) -> bool:
        """Give up the trials of workers that died; whether any slot is free or being tried then."""
        with self.studies.lock():
            self._look()
        return bool(self._free) or any(slot < self.slots for slot in self._open.values())

    def give_up(self, trial_id: int) -> None:
        """End a trial as lost: failed, without an error of its own; its slot is free again."""
        with suppress(UpdateFinishedTrialError):
            self.studies.storage.set_trial_state_values(trial_id, TrialState.FAIL)

    def own(self) -> list[FrozenTrial]:
        """The trials that this process is at."""
        running = self.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [trial for trial in running if trial.user_attrs[CLAIM]["worker"] == self._worker]

    def done(self) -> list[FrozenTrial]:
        """The trials that came to an end of their own, in the order of their slots."""
        trials = self.get_trials(deepcopy=False)
        over = [trial for trial in trials if trial.state.is_finished() and not is_lost(trial)]
        return sorted(over, key=slot_of)

    def _create(self, slot: int, state: TrialState, at: float | None = None, **attributes: Any) -> int:
        point = self.points[slot] if self.points is not None else {}
        template = optuna.trial.create_trial(
            state=state,
            params=dict(point),
            distributions={name: self._distributions[name] for name in point},
            user_attrs={
                CLAIM: {"slot": slot, "worker": self._worker, "command": self._command, "at": at},
                **attributes,
            },
        )
        return int(self.studies.storage.create_new_trial(self._id, template))

    def _condemn(self, slot: int) -> None:
        self._create(
            slot,
            TrialState.FAIL,
            error=f"given up: {MOST_LOSSES} workers died while they tried this point (out of memory, or killed)",
        )
        self._free.discard(slot)

    def _next_slot(self) -> int | None:
        free = self._free
        if free and self._cells is not None:
            running = {self._cells[slot] for slot in self._open.values() if slot < self.slots}
            same = {slot for slot in free if self._cells[slot] == self._cell}
            free = same or {slot for slot in free if self._cells[slot] not in running} or free
        # What a worker died of may kill the next one too: that comes last.
        return min(free, key=lambda slot: (self._losses[slot], slot), default=None)

    def _look(self) -> None:
        """Take note of what happened, and end the trials of dead workers; only under the lock."""
        trials = self._note()
        dead = [number for number in self._open if self._is_dead(trials[number])]
        for number in dead:
            self.give_up(trials[number]._trial_id)
        if dead:
            self._note()

    def _note(self) -> list[FrozenTrial]:
        trials: list[FrozenTrial] = self.studies.storage.get_all_trials(self._id, deepcopy=False)
        for number in [*sorted(self._open), *range(self._seen, len(trials))]:
            trial, slot = trials[number], slot_of(trials[number])
            self._open.pop(number, None)
            if trial.state == TrialState.RUNNING:
                self._open[number] = slot
            if is_lost(trial) and slot < self.slots:
                self._free.add(slot)
                self._losses[slot] += 1
                self._charged[slot] += trial.user_attrs[CLAIM]["command"] == self._command
            else:
                self._free.discard(slot)
        self._seen = len(trials)
        return trials

    def _is_dead(self, trial: FrozenTrial) -> bool:
        claim = trial.user_attrs[CLAIM]
        alive = is_alive(claim["worker"])
        if alive is not None:
            return not alive
        # Of another machine: Optuna ends the trials whose heart stopped beating, but not those that died before a first beat.
        old = self.studies.now() - claim["at"] > GRACE_SECONDS
        return old and not self.studies.has_heartbeat(trial._trial_id)


def slot_of(trial: FrozenTrial) -> int:
    """The number of the slot that a trial is of."""
    return int(trial.user_attrs[CLAIM]["slot"])


def is_lost(trial: FrozenTrial) -> bool:
    """Whether a trial ended with its worker and not by itself."""
    return trial.state == TrialState.FAIL and "error" not in trial.user_attrs


def open_study(name: str, studies: Studies, directions: Sequence[str], about: Mapping[str, Any]) -> dict[str, Any]:
    """Make the study, or find the one of this name and check that it is about the same; returns its record.

    Args:
        about: what it is about, as plain data by name: job, base config, space, sampler, data, model, seed.

    Raises UserError naming what is different under an old name.
    """
    with studies.lock():
        study = optuna.create_study(
            study_name=name, storage=studies.storage, directions=list(directions), load_if_exists=True
        )
        record = study.user_attrs.get(RECORD)
        if record is None:
            record = {"about": dict(about)}
            study.set_user_attr(RECORD, record)
            return record
    changed = [item for item in {**record["about"], **about} if record["about"].get(item) != about.get(item)]
    if changed:
        raise UserError(
            f"the study {name!r} exists and was about something else: {_changes(changed, record['about'], about)}.\n"
            "Resume it with the config it began with, or name a new study: study.name=…"
        )
    return dict(record)


def _changes(names: Sequence[str], old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    short = [f"{name} was {_short(old.get(name))}, is {_short(new.get(name))}" for name in names]
    return "; ".join(short[:3]) + (f"; and {len(short) - 3} more" if len(short) > 3 else "")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else f"{text[:117]}…"
