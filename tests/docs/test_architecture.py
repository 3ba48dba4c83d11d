"""The rooms: no circle of imports, and each module of the core in a layer."""

from __future__ import annotations

import tomllib
from pathlib import Path

import grimp
import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("coincide", "train", "eval", "baselines", "launch", "track")


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)


def circles(arrows: set[tuple[str, str]]) -> list[list[str]]:
    """Groups of names that lead to each other."""
    names = sorted({name for arrow in arrows for name in arrow})
    place = {name: i for i, name in enumerate(names)}
    ends = np.array([[place[a], place[b]] for a, b in sorted(arrows)]).T
    matrix = csr_matrix((np.ones(ends.shape[1]), (ends[0], ends[1])), shape=(len(names),) * 2)
    _, label = connected_components(matrix, directed=True, connection="strong")
    groups = [[names[i] for i in np.flatnonzero(label == k)] for k in np.unique(label)]
    return [group for group in groups if len(group) > 1]


def test_no_modules_import_each_other(graph: grimp.ImportGraph) -> None:
    arrows = {(a, b) for a in graph.modules for b in graph.find_modules_directly_imported_by(a)}
    assert len(arrows) > 500
    assert circles(arrows) == []


def test_a_circle_would_be_found() -> None:
    assert circles({("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")}) == [["a", "b", "c"]]


def test_every_module_of_the_core_has_a_layer(graph: grimp.ImportGraph) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    named = {name.strip() for layer in layers for name in layer.split("|")}
    core = {module for module in graph.modules if module.startswith("coincide.")}
    packages = {module.rsplit(".", 1)[0] for module in core}
    loose = {
        module
        for module in core - packages
        if not any(module == name or module.startswith(f"{name}.") for name in named)
    }
    assert loose == set()
