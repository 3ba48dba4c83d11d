"""Disks that are full or cannot be written, told as that."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from coincide.pipeline import Stage
from coincide.schema import UserError
from coincide.store import Build, Step, Store
from coincide.system import disk
from coincide.system.files import write_json
from tests.store.things import step

FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    OSError("96000 requested and 53184 written"),  # numpy's, without a number
    RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"),
]


def test_a_full_disk_says_how_much_is_free_and_keeps_what_was_done(tmp_path: Path) -> None:
    def full(build: Build) -> dict[str, int]:
        write_json(build.dir / "part-0.json", [0, 5])
        raise OSError(errno.ENOSPC, "No space left on device")

    store = Store(tmp_path)
    with pytest.raises(UserError, match=r"full while writing .*bytes free.*paths\.store"):
        store.ensure(Step("things", "numbers", 1, {"value": 5}, full))
    assert store.ensure(step(5)).manifest["attempts"] == 2


@pytest.mark.parametrize("error", FULL, ids=lambda e: str(e)[:20])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_is_told_as_that_whoever_noticed(
    tmp_path: Path, error: Exception, wrapped: bool
) -> None:
    def full(build: Build) -> None:
        if not wrapped:
            raise error
        try:
            raise error
        except Exception as cause:
            raise ValueError("An error occurred while generating the dataset") from cause

    wanted = replace(step(1), build=full)
    stage = Stage("select", (wanted,))
    with pytest.raises(
        UserError, match=r"select: .*full while writing things/numbers-.*bytes free"
    ):
        stage.build(Store(tmp_path), [wanted])


def test_numpy_says_how_much_it_needed(tmp_path: Path) -> None:
    told = disk.as_disk_error(
        OSError("96000 requested and 53184 written"), tmp_path, "it", "Set it."
    )
    assert "at least 96,000 needed" in str(told)
