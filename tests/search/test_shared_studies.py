"""Several commands and one study: on one PostgreSQL, on one sqlite file; and what they must never tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest

from layerwise.tracking.secrets import redacted

from .commands import Place, check_whole
from .postgres import PASSWORD, Cluster, running_cluster

pytestmark = pytest.mark.slow
SPACE = {
    "sites": "resid_post.*",
    "poolers": "last,mean,max,min,first,sum",
    "probe": "ridge,lda,mass_mean,nearest_centroid,logistic",
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as found:
        yield found


@pytest.fixture(params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Both databases on sqlite, or both on one PostgreSQL, tables made."""
    if request.param == "sqlite":
        return place
    cluster: Cluster = request.getfixturevalue("cluster")
    tracking, studies = (cluster.create(f"{name}-{tmp_path.name}") for name in ("tracking", "studies"))
    monkeypatch.chdir(tmp_path)
    mlflow.MlflowClient(tracking).search_experiments()
    return Place(tmp_path, tracking, studies, place.environment)


def test_two_commands_try_sixty_points_once_and_one_concludes(shared: Place, config: Callable[..., Path]) -> None:
    path = config(study="shared", space=SPACE, budget={"repeats": 2})
    commands = [shared.start(path), shared.start(path)]
    assert [command.wait() for command in commands] == [0, 0], [command.text() for command in commands]
    check_whole(shared, "shared", 60)
    trials = shared.study("shared").get_trials(deepcopy=False)
    assert len(trials) == 60
    assert len({trial.user_attrs["claim"]["worker"]["pid"] for trial in trials}) == 2
    texts = [command.text() for command in commands]
    assert sorted("joining the study" in text for text in texts) == [False, True]
    assert sorted("winner: trial" in text for text in texts) == [False, True]
    runs = shared.runs("tags.`layerwise.job` = 'search'")
    assert sorted("layerwise.continues" in run.data.tags for run in runs) == [False, True]
    assert {run.info.status for run in runs} == {"FINISHED"}


@pytest.mark.thorough
def test_a_command_whose_partner_is_killed_tries_the_rest_and_concludes(
    shared: Place, config: Callable[..., Path]
) -> None:
    path = config(study="deserted", budget={"repeats": 8})
    first = shared.start(path)
    first.until(lambda: "joining" in first.text() or "search: 18 points" in first.text())
    second = shared.start(path)
    second.until(lambda: "joining the study" in second.text())
    first.kill("group")
    assert second.wait() == 0, second.text()
    check_whole(shared, "deserted", 18)


@pytest.mark.thorough
def test_no_password_is_recorded_or_said(
    cluster: Cluster, tmp_path: Path, config: Callable[..., Path], place: Place
) -> None:
    """Neither of the storage named by a flag nor of a tracking database that does not answer."""
    own = Place(tmp_path, place.tracking, cluster.create("secret"), place.environment)
    path = config(study={"name": "secret", "storage": own.studies}, space={"sites": "resid_post.*"})
    assert PASSWORD in path.read_text()
    command = own.start(path, "--executor", "process", "--workers", "1")
    assert command.wait() == 0, command.text()
    wrong = own.start(path, "--study.storage", own.studies.replace("/secret", "/missing"))
    assert wrong.wait() == 2
    said = [command.text(), wrong.text()]
    for run in own.runs():
        said += [str(run.data.params), str(run.data.tags), str(run.info), run.info.run_name]
    said += [
        file.read_bytes().decode("utf-8", "replace") for file in tmp_path.rglob("*") if file.is_file() and file != path
    ]
    artifacts = Path(own.runs()[0].info.artifact_uri).parents[1]
    said += [file.read_bytes().decode("utf-8", "replace") for file in artifacts.rglob("*") if file.is_file()]
    assert len(said) > 20
    assert not any(PASSWORD in text for text in said)


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://ada:{}@db/studies",
        "postgresql+psycopg://ada:{}@db:5432/studies?sslmode=require",
        "postgresql://ada:with/{}@db/studies",
        "postgresql://db/studies?user=ada&password={}",
        "postgresql://db/studies?password={}&user=ada",
    ],
)
def test_every_way_to_write_a_password_is_hidden(address: str) -> None:
    shown = redacted(f"storage: '{address.format(PASSWORD)}'")
    assert PASSWORD not in shown
    assert "***" in shown
    assert "db" in shown
