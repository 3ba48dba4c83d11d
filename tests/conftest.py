"""Three processes share the suite, file by file; files with slow tests come first.

Programs of ours that tests start are forked from one that has imported their libraries
(``tests/warm.py``), except in tests marked ``fresh``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests import warm


@pytest.fixture(scope="session", autouse=True)
def _warm() -> Iterator[None]:
    with warm.imported():
        yield


@pytest.fixture(autouse=True)
def _fresh(request: pytest.FixtureRequest) -> Iterator[None]:
    marked = request.node.get_closest_marker("fresh")
    with warm.imported(warm.Plain if marked else warm.Popen):
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files first, so that none is left for one process alone at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say clearly when there was no SLURM to test sweeps on, and how to get one."""
    skipped = terminalreporter.stats.get("skipped", [])
    whys = [report.longrepr[2] for report in skipped if report.nodeid.startswith("tests/slurm/")]
    if whys:
        said = (
            f"{len(whys)} tests on a real SLURM were SKIPPED: {whys[0].removeprefix('Skipped: ')}"
        )
        terminalreporter.write_sep("-", said)
