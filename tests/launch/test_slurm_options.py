"""What jobs ask SLURM for."""

from __future__ import annotations

from pathlib import Path

import pytest

import run as program
from coincide.schema import UserError
from launch.plan import Node
from launch.resources import Resources, seconds
from launch.slurm import Slurm
from tests.launch.conftest import Compose

SITE = Slurm(
    gpu=Resources(gpus=8, gres="gpu:a100", cpus=12, memory_gb=100, partition="gpu", account="me"),
    cpu=Resources(cpus=4, memory_gb=0.5, options=("--exclude=n9",)),
)


def test_a_training_takes_its_gpus_and_their_share_of_the_machine() -> None:
    flags = SITE.flags(Node("a", "train", "adapter", processes="auto", machines=2))
    assert {"--gres=gpu:a100:8", "--nodes=2", "--ntasks-per-node=1", "--partition=gpu"} <= set(
        flags
    )
    assert {"--cpus-per-task=96", f"--mem={800 * 1024}M", "--account=me"} <= set(flags)
    assert "--gres=gpu:a100:2" in SITE.flags(Node("a", "train", "adapter", processes=2))


def test_more_processes_than_gpus_are_refused() -> None:
    with pytest.raises(UserError, match=r"train.processes=9: a machine has launcher.gpu.gpus=8"):
        SITE.flags(Node("a", "train", "adapter", processes=9))


@pytest.mark.parametrize("kind", ["features", "clusters", "difficulty"])
def test_a_pass_takes_one_gpu(kind: str) -> None:
    assert "--gres=gpu:a100:1" in SITE.flags(Node("a", "features", kind))


@pytest.mark.parametrize("kind", ["data", "model", "subset", "report", "record"])
def test_jobs_without_need_of_a_gpu_take_none(kind: str) -> None:
    flags = SITE.flags(Node("a", "select", kind))
    assert not any(flag.startswith("--gres") for flag in flags)
    assert {"--cpus-per-task=4", "--mem=512M", "--exclude=n9"} <= set(flags)


def test_a_site_without_gpus_asks_for_none() -> None:
    flags = Slurm().flags(Node("a", "train", "adapter", processes="auto"))
    assert not any(flag.startswith("--gres") for flag in flags)


def test_evaluation_rides_along_only_where_it_leaves_nothing_idle(compose: Compose) -> None:
    (one,) = compose("train.processes=1")
    (two_machines,) = compose("train.processes=1", "train.nodes=2", "train.micro_batch=8")
    (eight,) = compose("train.processes=auto", "train.micro_batch=2", "+eval.processes=1")
    (all_eight,) = compose("train.processes=auto", "train.micro_batch=2", "+eval.processes=auto")
    assert SITE.together(one)
    assert not SITE.together(two_machines)
    assert not SITE.together(eight)
    assert SITE.together(all_eight)
    assert Slurm().together(eight)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30", 1800), ("30:10", 1810), ("12:00:00", 43200),
        ("1-12", 129600), ("1-12:30", 131400), ("1-00:00:01", 86401),
    ],
)  # fmt: skip
def test_time_limits(text: str, expected: int) -> None:
    assert seconds(text) == expected


def test_without_slurms_commands_the_remedy_is_named(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    jobs = compose("method=random", "dry_run=true")
    with pytest.raises(UserError, match="squeue is not on this machine"):
        SITE.launch(jobs, program.executor(jobs[0]))


def test_a_warning_that_comes_before_the_start_is_refused() -> None:
    with pytest.raises(UserError, match=r"launcher.warning_s=120: expected less than"):
        Slurm(cpu=Resources(time="00:02:00"))
    with pytest.raises(UserError, match=r"launcher.failures=0"):
        Slurm(failures=0)
