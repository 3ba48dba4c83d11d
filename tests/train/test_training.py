"""Finetuning for real: invariance, resumption, and how failures are told."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from coincide.schema import UserError
from coincide.store import Artifact, Step, Store, sealed
from coincide.system.files import sha256_file, write_json
from tests.train.tiny import ROWS, Bench, losses, weights
from train import stage
from train.checkpoint import contents
from train.job import ADAPTER, LOG, TrainingJob
from train.launch import launch
from train.outcome import Stopped

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def plain(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """One process, no DeepSpeed: what every other layout is compared with. It was killed after its
    last step, before it was an artifact; nothing of it is trained again.
    """

    def killed(*args: Any, **more: Any) -> None:
        launch(*args, **more)
        raise KeyboardInterrupt

    folder = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "launch", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(made, folder)
        patch.setattr(stage, "launch", None)
        bench = Bench(Store(folder / "store"))
        return bench.store.ensure(bench.step())


def trained(made: Path, folder: Path, **changes: Any) -> Artifact:
    shutil.copytree(made, folder / "store")
    bench = Bench(Store(folder / "store"))
    return bench.store.ensure(bench.step(**changes))


def assert_same_answer(one: Path, other: Path) -> None:
    np.testing.assert_allclose(losses(one), losses(other), atol=1e-5, rtol=0)
    a, b = (load_file(p / "adapter" / "adapter_model.safetensors") for p in (one, other))
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=1e-5, rtol=0, err_msg=name)


# --- the answer -------------------------------------------------------------------------------


def test_artifact(plain: Artifact) -> None:
    facts = plain.facts
    assert facts["steps"] == len(losses(plain.path)) == 12
    assert facts["loss_last"] < facts["loss_first"]
    assert facts["examples"] == ROWS
    assert (facts["accumulation"], facts["world_size"], facts["zero_stage"]) == (2, 1, 0)
    assert facts["attempts"] == 2
    names = {str(p.relative_to(plain.path)) for p in plain.path.rglob("*") if p.is_file()}
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= names
    assert not [n for n in names if "checkpoint" in n or n.endswith((".bin", ".pt", ".pth"))]
    tensors = load_file(plain.path / "adapter" / "adapter_model.safetensors")
    parts = ("lora_A", "lora_B", "multi_modal_projector")
    assert all(any(part in name for part in parts) for name in tensors)
    assert any("multi_modal_projector" in n for n in tensors)


def test_adapter_loads_onto_the_base_model(plain: Artifact, made: Path) -> None:
    """What PEFT reads back is what was trained: the projector moved, LoRA is not zero."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    folder = next((made / "target").glob("tiny-*")) / "model"
    base = AutoModelForImageTextToText.from_pretrained(folder)
    before = base.model.multi_modal_projector.linear_1.weight.detach().clone()
    model = PeftModel.from_pretrained(base, str(plain.path / "adapter")).merge_and_unload()
    after = model.model.multi_modal_projector.linear_1.weight.detach()
    assert not torch.equal(before, after)
    saved = load_file(plain.path / "adapter" / "adapter_model.safetensors")
    name = "base_model.model.model.multi_modal_projector.linear_1.weight"
    np.testing.assert_array_equal(after.numpy(), saved[name])


def test_micro_batch_checkpointing_and_merged_products_do_not_change_the_answer(
    plain: Artifact, bench: Bench
) -> None:
    step = bench.step(
        micro_batch=2, gradient_checkpointing=True, merged=True, save_every=None, workers=1
    )
    assert step.key == bench.step().key
    artifact = bench.store.ensure(step)
    assert artifact.facts["accumulation"] == 4
    assert_same_answer(artifact.path, plain.path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("zero_stage", "processes"),
    [(0, 2), (2, 1), pytest.param(2, 2, marks=pytest.mark.fresh), (3, 1), (3, 2)],
)
def test_layout_does_not_change_the_answer(
    plain: Artifact, bench: Bench, zero_stage: int, processes: int
) -> None:
    step = bench.step(zero_stage=zero_stage, processes=processes, merged=zero_stage == 2)
    artifact = bench.store.ensure(step)
    assert artifact.facts["world_size"] == processes
    assert artifact.facts["threads"] == 1
    assert_same_answer(artifact.path, plain.path)


@pytest.mark.slow
def test_text_and_images_on_different_ranks_do_not_hang(
    made: Path, bench: Bench, tmp_path: Path
) -> None:
    """ZeRO-3 with one rank on text alone while the other sees an image (LLaVA #969, #1746)."""
    mixed = {"group_by_modality_length": False, "micro_batch": 1, "epochs": 1}
    sharded = bench.store.ensure(bench.step(zero_stage=3, processes=2, **mixed))
    assert_same_answer(sharded.path, trained(made, tmp_path / "plain", **mixed).path)


# --- kill and resume --------------------------------------------------------------------------


def start(
    bench: Bench, changes: dict[str, Any], *, stderr: int | None = None
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.train.tiny", str(bench.store.root), json.dumps(changes)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=stderr,
    )


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 400
    while not condition():
        assert process.poll() is None, "ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ranks_of(partial: Path) -> dict[int, int]:
    """The running ranks that train in the build folder: rank -> process id."""
    found = {}
    for output in Path("/proc").glob("[0-9]*/fd/1"):
        with suppress(OSError):
            log = output.readlink()
            if log.parent == partial / "logs" and log.stem.startswith("rank"):
                found[int(log.stem.removeprefix("rank"))] = int(output.parts[2])
    return found


def kill_after_checkpoint(bench: Bench, step: Step, changes: dict[str, Any], mark: int) -> None:
    """kill -9 the run once checkpoint ``mark`` is whole; its ranks must die with it."""
    partial = bench.partial(step)
    process = start(bench, changes)
    wait_for((partial / "checkpoints" / f"checkpoint-{mark}" / "complete").exists, process)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while ranks_of(partial):
        assert time.monotonic() < deadline, "ranks outlived their launcher"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"dropout": 0.05, "epochs": 5},
        {"dropout": 0.05, "epochs": 5, "zero_stage": 2, "processes": 2},
        {"dropout": 0.05, "epochs": 5, "zero_stage": 3, "processes": 2},
    ],
)
def test_killed_and_resumed_is_as_if_never_killed(
    made: Path,
    bench: Bench,
    tmp_path: Path,
    changes: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    step = bench.step(**changes)
    kill_after_checkpoint(bench, step, changes, 8)
    checkpoints = bench.partial(step) / "checkpoints"
    half = checkpoints / "checkpoint-900"
    shutil.copytree(min(checkpoints.glob("checkpoint-*")), half)
    (half / "complete").unlink(missing_ok=True)

    resumed = bench.store.ensure(step)
    said = capsys.readouterr().out
    assert "checkpoint-900 was half written and is not used" in said
    assert "train: resumed at step " in said

    straight = trained(made, tmp_path / "straight", **changes)
    assert losses(resumed.path) == losses(straight.path)
    assert weights(resumed.path) == weights(straight.path)
    assert resumed.facts["attempts"] == 2


def flipped(content: bytes) -> bytes:
    """Another byte near the end."""
    return content[:-40] + bytes([content[-40] ^ 1]) + content[-39:]


@pytest.mark.parametrize(
    "name", ["adapter/adapter_model.safetensors", "log.jsonl", "recipe.json", "logs/result.json"]
)
def test_what_a_kill_at_the_end_left_does_not_count_when_damaged(
    plain: Artifact, tmp_path: Path, name: str
) -> None:
    job = replace(TrainingJob.read(plain.path / "recipe.json"), output=str(tmp_path))
    job.write(tmp_path / "recipe.json")
    shutil.copytree(plain.path / "adapter", job.adapter)
    shutil.copy(plain.path / "log.jsonl", job.log)
    job.logs.mkdir()
    made = {ADAPTER: contents(job.adapter), LOG: sha256_file(job.log)}
    write_json(job.result, sealed({"steps": 12, **made}))
    assert stage._is_finished(job, tmp_path / "recipe.json", 12)
    whole = (tmp_path / name).read_bytes()
    for damaged in (whole[: len(whole) // 2], flipped(whole), b""):
        (tmp_path / name).write_bytes(damaged)
        assert not stage._is_finished(job, tmp_path / "recipe.json", 12)


def test_sigterm_writes_a_checkpoint_then_does_what_it_did(bench: Bench) -> None:
    changes = {"epochs": 40, "save_every": None}
    step = bench.step(**changes)
    partial = bench.partial(step)
    process = start(bench, changes)
    wait_for(lambda: (partial / "log.jsonl").is_file() and losses(partial), process)
    process.terminate()
    assert process.wait(timeout=60) == -signal.SIGTERM
    marked = list((partial / "checkpoints").glob("checkpoint-*/complete"))
    assert len(marked) == 1
    assert int(marked[0].parent.name.partition("-")[2]) == len(losses(partial)) < 240


@pytest.mark.slow
def test_one_signalled_rank_stops_them_all(bench: Bench) -> None:
    """SLURM signals processes, not launchers: the ranks agree and stop at the same step."""
    changes = {"epochs": 40, "zero_stage": 2, "processes": 2, "save_every": None}
    step = bench.step(**changes)
    partial = bench.partial(step)
    signalled: list[int] = []

    def once() -> None:
        while not signalled:
            time.sleep(0.02)
            if (partial / "log.jsonl").is_file() and losses(partial):
                rank = ranks_of(partial)[1]
                os.kill(rank, signal.SIGUSR2)
                signalled.append(rank)

    from threading import Thread

    Thread(target=once, daemon=True).start()
    with pytest.raises(Stopped, match=r"rank 1 stopped on request of SIGUSR2\)\. Run the same"):
        bench.store.ensure(step)
    assert list((partial / "checkpoints").glob("checkpoint-*/complete"))


# --- failures ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_dead_rank_is_named(bench: Bench) -> None:
    changes = {"epochs": 40, "processes": 2, "save_every": None}
    step = bench.step(**changes)
    partial = bench.partial(step)

    def kill_rank() -> None:
        while not ((partial / "log.jsonl").is_file() and losses(partial)):
            time.sleep(0.02)
        os.kill(ranks_of(partial)[1], signal.SIGKILL)

    from threading import Thread

    Thread(target=kill_rank, daemon=True).start()
    with pytest.raises(UserError, match=r"rank 1 of 2 ended with exit code -9, SIGKILL"):
        bench.store.ensure(step)


def test_an_exploding_loss_ends_the_run(bench: Bench) -> None:
    with pytest.raises(UserError, match=r"rank 0 of 1 .*The loss is nan at step \d+.*train\.lr"):
        bench.store.ensure(bench.step(lr=1e30, max_grad_norm=0.0, schedule="constant"))


def test_another_layout_cannot_resume(bench: Bench) -> None:
    from train.checkpoint import mark_complete

    step = bench.step(zero_stage=2, processes=2)
    path = bench.partial(step) / "checkpoints" / "checkpoint-4"
    path.mkdir(parents=True)
    mark_complete(path, step=4, world_size=8, zero_stage=2, seconds=1.0)
    with pytest.raises(UserError, match=r"written by 8 process\(es\) with ZeRO stage 2"):
        bench.store.ensure(step)
    assert path.is_dir()


def test_job_round_trip(plain: Artifact) -> None:
    path = plain.path / "recipe.json"
    job = TrainingJob.read(path)
    job.write(path.with_name("again.json"))
    assert path.with_name("again.json").read_bytes() == path.read_bytes()
    path.with_name("again.json").unlink()


def test_order_by_rows_and_the_mean_of_the_last_steps(plain: Artifact, bench: Bench) -> None:
    """Neither is in the key where recipes do what they did before; the mean over one step is it."""
    named = bench.step(order="seed", average=0.0)
    assert named.key == bench.step().key
    last = bench.store.ensure(bench.step(average=0.01))
    assert weights(last.path) == weights(plain.path) and losses(last.path) == losses(plain.path)
    mean = bench.store.ensure(bench.step(order="rows", average=0.5))
    assert losses(mean.path)[-1] < losses(mean.path)[0]
    assert losses(mean.path) != losses(plain.path) and weights(mean.path) != weights(plain.path)
