"""Tasks in several processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from coincide.errors import UserError
from coincide.system.side_by_side import map_processes


def square(number: int) -> tuple[int, int]:
    print("the same line")
    print(f"number {number}")
    return number**2, os.getpid()


def refuse(number: int) -> int:
    raise UserError(f"{number} is refused")


def killed_elsewhere(path: Path) -> int:
    """Killed in the process that first comes by, as by a system without memory."""
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def test_results_and_messages_are_in_order_each_line_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = map_processes(square, range(5), 2)
    assert [value for value, _ in found] == [0, 1, 4, 9, 16]
    assert os.getpid() not in {process for _, process in found}
    numbers = [f"number {i}" for i in range(5)]
    assert capsys.readouterr().out.splitlines() == ["the same line", *numbers]


@pytest.mark.parametrize("processes", [1, 2])
def test_what_a_task_raises_is_raised(processes: int) -> None:
    with pytest.raises(UserError, match="0 is refused"):
        map_processes(refuse, [0, 1], processes)


def test_one_process_is_this_one() -> None:
    assert map_processes(square, [3], 4) == [(9, os.getpid())]
    assert map_processes(square, [], 4) == []


def test_after_a_killed_process_the_work_is_done_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths[1:]:
        path.touch()
    assert map_processes(killed_elsewhere, paths, 2) == [os.getpid()] * 2
    assert "One of 2 processes was killed" in capsys.readouterr().out
