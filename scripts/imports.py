"""``python scripts/imports.py [CHECKOUT]``: the import graph: root modules, circles, layers.

A room is a folder of ``coincide/``, a module beside them, or one of the other packages. Imports
for type checking alone do not count.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import grimp
import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("coincide", "train", "eval", "baselines", "launch", "track")
Arrows = set[tuple[str, str]]


def graph_of(checkout: Path) -> grimp.ImportGraph:
    """The import graph of the product's packages in ``checkout``."""
    sys.path.insert(0, str(checkout))
    try:
        return grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)
    finally:
        sys.path.remove(str(checkout))


def arrows_of(graph: grimp.ImportGraph) -> Arrows:
    """``(module, module that it imports)``."""
    return {(a, b) for a in graph.modules for b in graph.find_modules_directly_imported_by(a)}


def room_of(module: str) -> str:
    """``coincide.data`` for ``coincide.data.rows``, ``eval`` for ``eval.stage``."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "coincide" else parts[0]


def between_rooms(arrows: Arrows) -> Arrows:
    """The arrows between rooms; ``coincide`` itself, which holds no code, is none."""
    rooms = {(room_of(a), room_of(b)) for a, b in arrows}
    return {(a, b) for a, b in rooms if a != b and "coincide" not in (a, b)}


def circles(arrows: Arrows) -> list[list[str]]:
    """Groups of names that lead to each other."""
    names = sorted({name for arrow in arrows for name in arrow})
    place = {name: i for i, name in enumerate(names)}
    ends = np.array([[place[a], place[b]] for a, b in sorted(arrows)]).T
    matrix = csr_matrix((np.ones(ends.shape[1]), (ends[0], ends[1])), shape=(len(names),) * 2)
    _, label = connected_components(matrix, directed=True, connection="strong")
    groups = [[names[i] for i in np.flatnonzero(label == k)] for k in np.unique(label)]
    return [group for group in groups if len(group) > 1]


def without_layer(modules: Iterable[str], checkout: Path) -> set[str]:
    """The modules of the core that the linter's layers do not name, alone or by their room."""
    settings = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    named = {name.strip() for layer in layers for name in layer.split("|")}
    core = {module for module in modules if module.startswith("coincide.")}
    packages = {module.rsplit(".", 1)[0] for module in core}
    return {
        module
        for module in core - packages
        if not any(module == name or module.startswith(f"{name}.") for name in named)
    }


def main(checkout: Path) -> None:
    """Print it."""
    graph = graph_of(checkout)
    arrows = arrows_of(graph)
    root = [p.stem for p in sorted((checkout / "coincide").glob("*.py")) if p.stem != "__init__"]
    print(f"{len(graph.modules)} modules, {len(arrows)} imports")
    print(f"{len(root)} modules beside the folders of coincide/: {', '.join(root)}")
    for what, found in (("modules", arrows), ("rooms", between_rooms(arrows))):
        rings = circles(found)
        print(f"{len(rings)} circles of {what}")
        for ring in rings:
            print(f"  {' '.join(ring)}")
    loose = without_layer(graph.modules, checkout)
    print(f"{len(loose)} modules of the core without a layer")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT)
