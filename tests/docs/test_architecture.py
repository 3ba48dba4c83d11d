"""The rooms: no circle of imports, each module of the core in a layer, no name for two things."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator
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


def types(tree: ast.Module) -> Iterator[str]:
    """Names of the public classes and type aliases of a module."""
    for node in tree.body:
        names = [node.name] if isinstance(node, ast.ClassDef) else []
        if isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        yield from (n for n in names if n[0].isalpha() and n[0].isupper() and not n.isupper())


def doubled(trees: Iterable[tuple[str, ast.Module]]) -> dict[str, list[str]]:
    """Type name -> the modules that define it, where there are several."""
    found = defaultdict(list)
    for module, tree in trees:
        for name in types(tree):
            found[name].append(module)
    return {name: modules for name, modules in found.items() if len(modules) > 1}


@pytest.fixture(scope="module")
def trees() -> list[tuple[str, ast.Module]]:
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [(str(path), ast.parse(path.read_text(encoding="utf-8"))) for path in files]


def test_no_two_public_types_share_a_name(trees: list[tuple[str, ast.Module]]) -> None:
    assert sum(len(list(types(tree))) for _, tree in trees) > 200
    assert doubled(trees) == {}


def test_a_doubled_name_would_be_found() -> None:
    one, two = ast.parse("class Job: ..."), ast.parse("Job = dict[str, int]\nLIMIT = 1")
    assert doubled([("a", one), ("b", two)]) == {"Job": ["a", "b"]}


def test_the_glossary_names_types_that_there_are(trees: list[tuple[str, ast.Module]]) -> None:
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8").partition("## Words")[2]
    named = set(re.findall(r"`([A-Z][a-z]\w+)`", page))
    assert len(named) > 30
    assert named - {name for _, tree in trees for name in types(tree)} == set()
