"""The house rules that an import can break: arrows point down, only tracking knows mlflow, configs stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import layerwise

ROOT = Path(layerwise.__file__).parent
# What each package may import of layerwise, besides itself and the shared modules.
BELOW = {
    "measures": set(),
    "data": set(),
    "models": {"data"},
    "activations": {"measures", "models", "data"},
    "probes": {"activations", "measures", "models", "data"},
    "comparison": {"activations", "measures", "models", "data"},
    "interventions": {"activations", "measures", "models", "data"},
    "training": {"activations", "measures", "models", "data"},
    "reports": set(),
    "tracking": {"probes", "interventions", "training", "activations", "measures", "models", "data", "reports", "jobs"},
    "search": {"tracking", "reports", "measures"},
    "jobs": {
        "search",
        "tracking",
        "reports",
        "probes",
        "comparison",
        "interventions",
        "training",
        "activations",
        "measures",
        "models",
        "data",
    },
}
SHARED = {"errors", "files", "process", "progress", "config"}
LIGHT = [
    "layerwise.__main__", "layerwise.jobs.probe", "layerwise.jobs.extract", "layerwise.jobs.prepare", "layerwise.jobs.online",
    "layerwise.jobs.store", "layerwise.jobs.apply", "layerwise.jobs.search", "layerwise.jobs.report",
    "layerwise.jobs.dashboard", "layerwise.jobs.compare", "layerwise.jobs.inspect", "layerwise.jobs.intervene", "layerwise.jobs.train", "layerwise.jobs.train_ablations",
]  # fmt: skip


def imports(path: Path) -> set[str]:
    """Full names imported anywhere in a file, except for type checking only."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


@pytest.mark.parametrize("package", BELOW)
def test_arrows_point_down(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "layerwise" and len(parts) > 1:
                assert parts[1] in BELOW[package] | SHARED | {package}, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize(("library", "home"), [("mlflow", "tracking"), ("optuna", "search")])
def test_only_one_package_imports(library: str, home: str) -> None:
    for path in ROOT.rglob("*.py"):
        if path.relative_to(ROOT).parts[0] != home:
            assert not {name for name in imports(path) if name.split(".")[0] == library}, path.name


def test_no_file_is_too_long_to_read_in_one_go() -> None:
    long = {path.name: lines for path in ROOT.rglob("*.py") if (lines := len(path.read_text().splitlines())) > 330}
    assert not long


def test_help_needs_nothing_heavy() -> None:
    heavy = "torch transformers sklearn mlflow plotly datasets pandas scipy matplotlib"
    code = f"import sys, {', '.join(LIGHT)}; print([name for name in {heavy.split()!r} if name in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
