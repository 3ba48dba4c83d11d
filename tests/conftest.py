"""Two processes share the suite: tests of a file stay together, slow files come first."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent


def group(item: pytest.Item) -> str:
    """What runs in one process: a file, for its module fixtures; all of SLURM, which is one."""
    path = item.path.relative_to(TESTS)
    return path.parts[0] if path.parts[0] == "slurm" else str(path)


@pytest.hookimpl(tryfirst=True)  # before the plugin that reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Name each test's group; files with slow tests come first, so that none is left at the end."""
    slow = {group(item) for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: group(item) not in slow)
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
