"""Slots: each tried once by whoever claims it first, given back when its worker dies, given up when it kills its workers."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from layerwise.errors import UserError
from layerwise.process import is_alive, myself
from layerwise.search import storage
from layerwise.search.ownership import Ownership
from layerwise.search.samplers import build_sampler, distribution, suggest
from layerwise.search.slots import MOST_LOSSES, NoFreeSlot, SlotStudy, is_lost, open_study
from layerwise.search.space import Space
from layerwise.search.space_reading import read_space
from layerwise.search.storage import GRACE_SECONDS, Studies, address, open_storage

SPACE: Space = read_space({"x": "a,b,c", "y": "p,q"})
POINTS = list(SPACE.grid())
DISTRIBUTIONS = {name: distribution(node) for name, node in SPACE.parameters()}
ELSEWHERE = {"host": "another machine", "pid": 1, "began": 0.0}


@pytest.fixture
def studies(tmp_path: Path) -> Studies:
    found = open_storage(address(str(tmp_path / "studies.db")))
    open_study("one", found, ["maximize"], {"job": "probe"})
    return found


def slots(studies: Studies, number: int = len(POINTS), **changed: Any) -> SlotStudy:
    return SlotStudy("one", studies, number, POINTS[:number], DISTRIBUTIONS, **changed)


def finish(study: SlotStudy, trial: optuna.Trial, value: float = 0.5) -> None:
    study.tell(trial, value)


def put(studies: Studies, slot: int, worker: dict[str, Any], at: float | None = None, command: Any = None) -> int:
    """A RUNNING trial of another process."""
    claim = {"slot": slot, "worker": worker, "command": command or worker, "at": studies.now() if at is None else at}
    trial = optuna.trial.create_trial(
        state=TrialState.RUNNING,
        params=POINTS[slot],
        distributions=DISTRIBUTIONS,
        user_attrs={"claim": claim},
    )
    return studies.storage.create_new_trial(studies.storage.get_study_id_from_name("one"), trial)


@pytest.fixture
def dead() -> dict[str, Any]:
    """A process of this machine that has ended."""
    asked = "import json; from layerwise.process import myself; print(json.dumps(myself()))"
    found: dict[str, Any] = json.loads(subprocess.check_output([sys.executable, "-c", asked]))
    assert is_alive(found) is False
    return found


def test_every_slot_is_claimed_once_with_its_point(studies: Studies) -> None:
    study = slots(studies)
    claimed = [study.ask() for _ in POINTS]
    assert [suggest(trial, SPACE) for trial in claimed] == POINTS
    assert [trial.user_attrs["claim"]["slot"] for trial in claimed] == list(range(6))
    with pytest.raises(NoFreeSlot):
        study.ask()
    assert study.bury()  # all of them are being tried
    for trial in claimed:
        finish(study, trial)
    assert not study.bury()


def test_workers_that_ask_at_the_same_time_claim_different_slots(studies: Studies) -> None:
    def ask(found: list[int]) -> None:
        study = slots(open_storage(studies.url))
        while True:
            try:
                trial = study.ask()
            except NoFreeSlot:
                return
            found.append(trial.user_attrs["claim"]["slot"])
            finish(study, trial)

    found: list[list[int]] = [[], [], [], []]
    threads = [threading.Thread(target=ask, args=(one,)) for one in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(slot for one in found for slot in one) == list(range(6))


def test_adaptive_workers_that_ask_at_the_same_time_choose_different_points(studies: Studies) -> None:
    def study_of(storage: Studies) -> SlotStudy:
        sampler = build_sampler("tpe", {}, SPACE, 0)
        return SlotStudy(
            "one", storage, 6, None, DISTRIBUTIONS, sampler=sampler, settle_point=lambda one: suggest(one, SPACE)
        )

    first, second = study_of(studies), study_of(open_storage(studies.url))
    chosen = [tuple((first, second)[index % 2].ask().params.items()) for index in range(6)]
    assert len(set(chosen)) == 6


def test_the_slot_of_a_dead_worker_comes_back_last(studies: Studies, dead: dict[str, Any]) -> None:
    lost = put(studies, 0, dead)
    study = slots(studies)
    assert [study.ask().user_attrs["claim"]["slot"] for _ in range(6)] == [1, 2, 3, 4, 5, 0]
    assert is_lost(studies.storage.get_trial(lost))


def test_the_slot_of_a_living_worker_does_not(studies: Studies) -> None:
    put(studies, 0, myself())
    assert [slots(studies).ask().user_attrs["claim"]["slot"] for _ in range(5)] == [1, 2, 3, 4, 5]


def test_a_point_that_kills_its_workers_is_given_up_with_an_error(studies: Studies, dead: dict[str, Any]) -> None:
    study = slots(studies, 1)
    for _ in range(MOST_LOSSES):
        put(studies, 0, dead, command=myself())
        study.bury()
    with pytest.raises(NoFreeSlot):
        study.ask()
    [given_up] = study.done()
    assert given_up.state == TrialState.FAIL
    assert "given up: 3 workers died" in given_up.user_attrs["error"]
    assert given_up.params == POINTS[0]
    assert not study.bury()


def test_deaths_of_whole_commands_are_not_held_against_a_point(studies: Studies, dead: dict[str, Any]) -> None:
    study = slots(studies, 1)
    for _ in range(MOST_LOSSES + 2):
        put(studies, 0, dead)
        assert study.bury()
    assert study.ask().user_attrs["claim"]["slot"] == 0


def beat(studies: Studies, trial: int, seconds_ago: int) -> None:
    open_storage(studies.url).storage.record_heartbeat(trial)
    with studies.engine.begin() as connection:
        query = "UPDATE trial_heartbeats SET heartbeat = datetime('now', :ago) WHERE trial_id = :trial"
        connection.execute(sqlalchemy.text(query), {"ago": f"-{seconds_ago} seconds", "trial": trial})


@pytest.mark.parametrize("silent", [GRACE_SECONDS - 20, GRACE_SECONDS + 5])
def test_a_trial_of_another_machine_is_lost_after_a_minute_without_a_heartbeat(studies: Studies, silent: int) -> None:
    trial = put(studies, 0, ELSEWHERE, at=studies.now() - 3600)
    beat(studies, trial, silent)
    study = slots(studies, 1)
    taken: list[int] = []

    def objective(one: optuna.Trial) -> float:
        taken.append(one.user_attrs["claim"]["slot"])
        return 1.0

    with pytest.raises(NoFreeSlot):
        study.optimize(objective)
    assert taken == ([0] if silent > GRACE_SECONDS else [])


@pytest.mark.parametrize("ago", [5, GRACE_SECONDS + 5])
def test_one_that_was_killed_before_its_first_heartbeat_is_lost_too(studies: Studies, ago: int) -> None:
    put(studies, 0, ELSEWHERE, at=studies.now() - ago)
    study = slots(studies, 1)
    if ago > GRACE_SECONDS:
        assert study.ask().user_attrs["claim"]["slot"] == 0
    else:
        with pytest.raises(NoFreeSlot):
            study.ask()
        assert study.bury()


def test_a_heart_beats_from_the_second_interval_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "HEARTBEAT_SECONDS", 1)
    studies = open_storage(f"sqlite:///{tmp_path / 'studies.db'}")
    open_study("one", studies, ["maximize"], {})
    study = slots(studies, 2)
    beats: list[bool] = []

    def objective(trial: optuna.Trial) -> float:
        time.sleep(1.5 * trial.number)
        beats.append(studies.has_heartbeat(trial._trial_id))
        return 1.0

    study.optimize(objective, n_trials=2)
    assert beats == [False, True]


def test_a_trial_that_others_gave_up_does_not_come_back_to_life(studies: Studies) -> None:
    study = slots(studies, 1)
    trial = study.ask()
    slots(open_storage(studies.url), 1).give_up(trial._trial_id)
    with pytest.raises(UpdateFinishedTrialError):
        study.tell(trial, 1.0)
    assert is_lost(studies.storage.get_trial(trial._trial_id))
    assert study.ask().user_attrs["claim"]["slot"] == 0


def test_more_slots_later_go_on_where_the_fewer_ended(studies: Studies) -> None:
    few = slots(studies, 2)
    for _ in range(2):
        finish(few, few.ask())
    assert not few.bury()
    assert [slots(studies).ask().user_attrs["claim"]["slot"] for _ in range(4)] == [2, 3, 4, 5]
    assert not few.bury()  # what others try beyond its slots is not waited for


def test_workers_stay_with_their_cell_and_apart(studies: Studies) -> None:
    first, second = (slots(open_storage(studies.url), cell_of=lambda point: str(point["x"])) for _ in range(2))
    claimed = [suggest(study.ask(), SPACE)["x"] for study in (first, second, first, second)]
    assert claimed == ["a", "b", "a", "b"]


def test_one_process_owns_a_study_until_it_dies_or_falls_silent(studies: Studies, dead: dict[str, Any]) -> None:
    study = slots(studies)
    ownership = Ownership(study)
    assert ownership.take()
    assert ownership.take()
    for process, beat, taken in [
        (ELSEWHERE, studies.now(), False),
        (ELSEWHERE, studies.now() - GRACE_SECONDS - 5, True),
        (dead, studies.now(), True),
    ]:
        optuna.Study.set_user_attr(
            study, "layerwise", {**ownership.record, "owner": {"process": process, "beat": beat}}
        )
        assert ownership.held is False
        ownership.write(run_id="not mine to write")
        assert ownership.record.get("run_id") is None
        assert ownership.take() is taken


def test_silence_is_told_by_the_signs_that_commands_leave(studies: Studies) -> None:
    ownership = Ownership(slots(studies))
    ownership.take()
    assert ownership.beat("living")
    assert not ownership.beat("living")  # only every few seconds
    optuna.Study.set_user_attr(ownership.study, "sign of life: gone", studies.now() - GRACE_SECONDS - 5)
    assert ownership.silent() == {"gone"}


def test_an_address_is_understood_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert address("mine.db") == f"sqlite:///{tmp_path}/mine.db"
    monkeypatch.setenv("LAYERWISE_STUDIES", "postgresql://ada@db/studies")
    assert address(None) == "postgresql://ada@db/studies"
    for given, message in {
        "mysql://db/studies": "studies live in sqlite or PostgreSQL, got 'mysql'",
        "sqlite://": "studies need a file",
        "sqlite:////no/such/folder/studies.db": "there is no folder /no/such/folder",
        "postgresql://ada:secret@127.0.0.1:9/studies": "cannot be opened",
    }.items():
        with pytest.raises(UserError) as caught:
            open_storage(given)
        assert message in str(caught.value)
        assert "secret" not in str(caught.value)


def test_what_is_remembered_of_a_trial_is_what_is_stored(studies: Studies) -> None:
    study = slots(studies)
    trial = study.ask()
    trial.set_user_attr("record", {"run_id": "1"})
    trial.set_constraint("size", -1.0)
    trial.report(0.5, 1)
    remembered = studies.storage.get_trial(trial._trial_id)
    assert remembered == open_storage(studies.url).storage.get_trial(trial._trial_id)
    assert remembered.intermediate_values == {1: 0.5}
    study.tell(trial, 1.0)
    ended = studies.storage.get_trial(trial._trial_id)
    stored = open_storage(studies.url).storage.get_trial(trial._trial_id)
    assert (ended.state, ended.values, ended.user_attrs) == (stored.state, stored.values, stored.user_attrs)
