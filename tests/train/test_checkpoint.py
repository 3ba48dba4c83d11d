"""A checkpoint counts only when it is whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from coincide.schema import UserError
from train.checkpoint import MARKER, mark_complete, newest_complete, sweep


def make(folder: Path, step: int, *, complete: bool = True, world_size: int = 1) -> Path:
    path = folder / f"checkpoint-{step}"
    (path / "global_step").mkdir(parents=True)
    (path / "weights.bin").write_bytes(b"weights")
    (path / "global_step" / "shard.bin").write_bytes(b"shard")
    if complete:
        mark_complete(path, step=step, world_size=world_size, zero_stage=2, seconds=step / 2)
    return path


def test_newest_complete_is_found(tmp_path: Path) -> None:
    assert newest_complete(tmp_path) is None
    for step in (8, 100, 20):
        make(tmp_path, step)
    found = newest_complete(tmp_path)
    assert found is not None
    assert (found.step, found.path.name, found.seconds) == (100, "checkpoint-100", 50.0)


def test_half_written_checkpoints_do_not_count(tmp_path: Path) -> None:
    make(tmp_path, 10)
    make(tmp_path, 20, complete=False)
    (make(tmp_path, 30) / "weights.bin").write_bytes(b"wei")
    (make(tmp_path, 40) / "global_step" / "shard.bin").unlink()
    found = newest_complete(tmp_path)
    assert found is not None
    assert found.step == 10
    assert sweep(tmp_path, found) == ["checkpoint-20", "checkpoint-30", "checkpoint-40"]
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-10"]
    assert (found.path / MARKER).is_file()


def test_another_layout_is_refused_before_anything_starts(tmp_path: Path) -> None:
    make(tmp_path, 10, world_size=8)
    found = newest_complete(tmp_path)
    assert found is not None
    found.check_layout(8, 2)
    with pytest.raises(UserError, match=r"step 10 was written by 8 process\(es\).*remove"):
        found.check_layout(4, 2)
    with pytest.raises(UserError, match="stage 3"):
        found.check_layout(8, 3)
