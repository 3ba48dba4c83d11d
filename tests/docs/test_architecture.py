"""The rooms: no circle of imports, each module of the core in a layer, no type name given twice."""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import imports  # noqa: E402


@pytest.fixture(scope="module")
def graph() -> Any:
    return imports.graph_of(ROOT)


def test_neither_modules_nor_rooms_import_each_other(graph: Any) -> None:
    arrows = imports.arrows_of(graph)
    assert len(arrows) > 500
    assert imports.circles(arrows) == []
    assert len(imports.between_rooms(arrows)) > 50
    assert imports.circles(imports.between_rooms(arrows)) == []


def test_a_circle_would_be_found() -> None:
    arrows = {("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")}
    assert imports.circles(arrows) == [["a", "b", "c"]]
    upwards = {
        ("coincide.data.rows", "coincide.checks.x"),
        ("coincide.checks.y", "coincide.data"),
    }
    assert imports.circles(imports.between_rooms(upwards)) == [["coincide.checks", "coincide.data"]]


def test_every_module_of_the_core_has_a_layer(graph: Any) -> None:
    assert imports.without_layer(graph.modules, ROOT) == set()
    assert imports.without_layer({"coincide.lost", "coincide.data.rows"}, ROOT) == {"coincide.lost"}


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
    files = [
        path for package in imports.PACKAGES for path in sorted((ROOT / package).rglob("*.py"))
    ]
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


def silent(tree: ast.Module) -> Iterator[str]:
    """Public functions that raise an error of which their docstring says nothing."""
    found = ast.walk(tree)
    for node in (n for n in found if isinstance(n, ast.FunctionDef) and n.name[0] != "_"):
        own, said = list(node.body), (ast.get_docstring(node) or "raises").lower()
        raised = []
        while own:
            part = own.pop()
            if isinstance(part, ast.Raise) and isinstance(part.exc, ast.Call):
                raised.append(ast.unparse(part.exc.func).split(".")[-1])
            if not isinstance(part, ast.FunctionDef | ast.Lambda | ast.ClassDef):
                own += ast.iter_child_nodes(part)
        names = [name for name in raised if name[0].isupper()]
        words = ("raise", "refuse", "error", "exit", "fail", *map(str.lower, names))
        if names and not any(word in said for word in words):
            yield node.name


def test_docstrings_name_the_errors(trees: list[tuple[str, ast.Module]]) -> None:
    assert {path: names for path, tree in trees if (names := list(silent(tree)))} == {}
    code = 'def f():\n    """Answer."""\n    if x:\n        raise ValueError("no")'
    assert list(silent(ast.parse(code))) == ["f"]
    assert list(silent(ast.parse(code.replace("Answer", "Answer, or ValueError")))) == []


def test_the_stores_private_names_stay_in_the_store(trees: list[tuple[str, ast.Module]]) -> None:
    private = re.compile(r"\.(partial|claimed|owner)-|^\.attempts$")
    users = {
        Path(path).parent.name
        for path, tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if private.search(node.value)
    }
    assert users == {"store"}
