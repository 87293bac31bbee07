"""What runs refer to outside the tracking server, so that the rest can be cleared away."""

from __future__ import annotations

from mlflow.entities import ViewType

from layerwise.tracking.server import Server

_PAGE = 1000


def referenced(server: Server, tag: str) -> set[str]:
    """Every value in the comma-joined tag ``layerwise.<tag>`` of all runs that are not deleted, of every experiment."""
    client = server.client
    found: set[str] = set()
    experiments: list[str] = []
    token: str | None = None
    while token != "":
        page = client.search_experiments(view_type=ViewType.ALL, max_results=_PAGE, page_token=token)
        experiments += [item.experiment_id for item in page]
        token = page.token or ""
    token = None
    while token != "":
        runs = client.search_runs(
            experiments, filter_string=f"tags.`layerwise.{tag}` LIKE '%'", max_results=_PAGE, page_token=token
        )
        for run in runs:
            found.update(run.data.tags[f"layerwise.{tag}"].split(","))
        token = runs.token or ""
    return found - {""}
