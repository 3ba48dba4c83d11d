"""Two processes share the suite, file by file; files with slow tests come first."""

from __future__ import annotations

from typing import Any

import pytest


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
