"""Devices and ranks, and claims that end with their holders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from coincide.config import FeaturePass
from coincide.features.engine.ahead import groups_by_image
from coincide.features.engine.claims import Claims
from coincide.features.engine.devices import Rank, decoders_of, devices_of, rank_of
from coincide.schema import Example, Turn

ALONE = Rank()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ALONE),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"},
         Rank(5, 1, 4)),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "4",
          "SLURM_LOCALID": "0"}, Rank(3, 0, 1)),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "16", "SLURM_STEP_NUM_NODES": "2",
          "SLURM_LOCALID": "3"}, Rank(3, 3, 8)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"}, ALONE),
    ],
    ids=["alone", "torchrun", "one task a node", "eight tasks a node", "in the batch script"],
)  # fmt: skip
def test_ranks(environment: Mapping[str, str], expected: Rank) -> None:
    assert rank_of(environment) == expected


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices_of(FeaturePass(device="cpu"), ALONE) == ["cpu"]
    assert devices_of(FeaturePass(device="cpu", processes=3), ALONE) == ["cpu"] * 3
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    every = ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]
    assert devices_of(FeaturePass(), ALONE) == every
    assert devices_of(FeaturePass(), Rank(2, 0, 1)) == every, "a rank with the node to itself"
    assert devices_of(FeaturePass(), Rank(5, 1, 4)) == ["cuda:1"]
    assert devices_of(FeaturePass(processes=2), ALONE) == every[:2]
    assert devices_of(FeaturePass(processes=6), ALONE) == [*every, *every[:2]]
    assert devices_of(FeaturePass(device="cuda:3"), ALONE) == ["cuda:3"]


def test_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    from coincide.features.engine import devices as places

    monkeypatch.setattr(places, "available_cores", lambda: 64)
    monkeypatch.setattr(places, "free_memory", lambda: 500e9)
    assert decoders_of(FeaturePass(), "cpu", 1) == 0
    assert decoders_of(FeaturePass(), "cuda:0", 8) == 7
    assert decoders_of(FeaturePass(), "cuda:0", 1) == 16
    assert decoders_of(FeaturePass(), "cuda:0", 64) == 1
    assert decoders_of(FeaturePass(decode_workers=3), "cpu", 1) == 3
    monkeypatch.setattr(places, "free_memory", lambda: 12e9)
    assert decoders_of(FeaturePass(), "cuda:0", 1) == 4  # half of it, at 1.5 GB each
    assert decoders_of(FeaturePass(), "cuda:0", 8) == 1


def test_a_claim_is_of_one_holder_at_a_time(tmp_path: Path) -> None:
    with Claims(tmp_path) as first, Claims(tmp_path) as second:
        assert first.take("00003")
        assert not second.take("00003")
        assert not first.void("00003")
        first.release("00003")
        assert second.take("00003")
    assert list(tmp_path.iterdir()) == []


def test_a_claim_ends_with_its_process(tmp_path: Path) -> None:
    script = (
        "import os, sys, pathlib; from coincide.features.engine.claims import Claims\n"
        "Claims(pathlib.Path(sys.argv[1])).take('00000'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    with Claims(tmp_path) as claims:
        assert claims.void("00000")
        assert claims.take("00000")


def test_a_claim_of_another_machine_ends_when_nobody_touches_it(tmp_path: Path) -> None:
    path = tmp_path / "00000"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    with Claims(tmp_path, lease=5.0) as claims:
        assert not claims.take("00000")
        os.utime(path, (time.time() - 6, time.time() - 6))
        assert claims.take("00000")


def test_a_living_holder_keeps_its_claim(tmp_path: Path) -> None:
    with Claims(tmp_path, lease=0.3) as holder, Claims(tmp_path, lease=0.3) as other:
        assert holder.take("00000")
        time.sleep(0.6)
        assert not other.take("00000")


def test_rows_that_share_images_are_one_group() -> None:
    def row(i: int, length: int, *images: str) -> Example:
        return Example(i, "", images, (Turn("human", "x" * length),), "")

    rows = [
        row(0, 5, "a"), row(1, 9), row(2, 7, "b"), row(3, 8, "c", "a"), row(4, 6, "c"),
        row(5, 7, "d"), row(6, 10),
    ]  # fmt: skip
    assert groups_by_image(rows) == [[3, 4, 0], [2], [5], [6], [1]]
