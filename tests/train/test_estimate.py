"""Costs before they arise: memory, disk and GPU hours, and what a recipe asks of the machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from coincide.protocols import Requirement
from tests.train.test_recipe import load
from tests.train.tiny import Bench
from train import devices, requirements
from train.checkpoint import mark_complete
from train.devices import Gpu, gpus
from train.estimate import (
    GIB,
    DecoderShape,
    checkpoint_bytes,
    estimate_gpu_hours,
    memory_estimate,
    shape_of,
    trained_parameters,
)
from train.lora import add_lora
from train.recipe import Recipe

VICUNA = DecoderShape(layers=32, hidden=4096, intermediate=11008)
LLAVA_7B = 7_063_427_072
A100 = Gpu("NVIDIA A100-SXM4-80GB", 80 * GIB)
RECIPE = Recipe()


def test_shapes_that_are_known() -> None:
    assert VICUNA.lora(128) == 319_815_680  # LLaVA-1.5-7B's published adapter
    assert VICUNA.linears == 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    guessed = shape_of(LLAVA_7B)
    assert guessed.layers in (32, 33)
    assert guessed.hidden == pytest.approx(4096, rel=0.06)


def test_trained_parameters_are_those_of_the_adapter(llava: nn.Module) -> None:
    recipe = Recipe(rank=4, alpha=8)
    model = add_lora(llava, recipe, base="x", keep_dtype=False)
    lora = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    assert DecoderShape(2, 16, 24, 40).lora(4) == lora
    assert trained_parameters(RECIPE, VICUNA) == 319_815_680 + 1024 * 4096 + 4096**2


def test_memory_by_hand() -> None:
    """One GPU, no ZeRO, no checkpointing, one token of one example."""
    recipe = replace(
        RECIPE, zero_stage=0, gradient_checkpointing=False, micro_batch=1, max_length=1
    )
    found = memory_estimate(recipe, parameters=LLAVA_7B, shape=VICUNA)
    assert found.weights == 2 * LLAVA_7B
    assert found.trained == 16 * trained_parameters(recipe, VICUNA)
    assert found.activations == 2 * 4096 * 24 * 32 + 32_000 * 6
    parts = found.weights + found.trained + found.activations
    assert found.total == pytest.approx(1.1 * parts + 1.5 * GIB)


@pytest.mark.parametrize(
    ("change", "smaller"),
    [
        ({"quantization": "nf4", "zero_stage": 2}, True),
        ({"micro_batch": 8}, True),
        ({"max_length": 1024}, True),
        ({"gradient_checkpointing": False}, False),
        ({"precision": "fp32"}, False),
        ({"rank": 256}, False),
    ],
)
def test_memory_moves_with_the_recipe(change: dict[str, Any], smaller: bool) -> None:
    base = replace(RECIPE, zero_stage=2)
    before = memory_estimate(base, parameters=LLAVA_7B).total
    after = memory_estimate(replace(base, **change), parameters=LLAVA_7B).total
    assert (after < before) is smaller
    assert after != before


def test_published_settings_fit_where_they_ran() -> None:
    """finetune_lora.sh ran on A100s of 80 GB, QLoRA of a 7B model runs on one of 24 GB."""
    assert memory_estimate(RECIPE, parameters=LLAVA_7B, world_size=8).total < 80 * GIB
    thirteen = memory_estimate(RECIPE, parameters=13_350_839_296, world_size=8)
    assert thirteen.total < 80 * GIB
    qlora = replace(RECIPE, quantization="nf4", zero_stage=2, micro_batch=1)
    assert memory_estimate(qlora, parameters=LLAVA_7B).total < 24 * GIB


def test_sharding_saves_memory() -> None:
    eight = [
        memory_estimate(replace(RECIPE, zero_stage=stage), parameters=LLAVA_7B, world_size=8).total
        for stage in (0, 2, 3)
    ]
    assert eight == sorted(eight, reverse=True)


def test_gpu_hours_by_hand() -> None:
    recipe = replace(RECIPE, rank=1, gradient_checkpointing=False)
    found = estimate_gpu_hours(recipe, 128, LLAVA_7B, 1000.0, "NVIDIA H100 80GB HBM3")
    flops = 128 * 1000 * (4 * LLAVA_7B + 6 * shape_of(LLAVA_7B).lora(1))
    assert found.hours == pytest.approx(flops / (989e12 * 0.3) / 3600)
    assert "30% of 989 TFLOP/s (H100)" in found.basis
    assert "4N" in found.basis


def test_gpu_hours_beside_the_published_ones() -> None:
    """68 A100 hours for all of LLaVA-665K (MAGIC, table 5)."""
    found = estimate_gpu_hours(RECIPE, 665_298, LLAVA_7B, 750.0, "NVIDIA A100-SXM4-80GB")
    assert found.hours == pytest.approx(68, rel=0.1)
    fifth = estimate_gpu_hours(RECIPE, 133_059, LLAVA_7B, 750.0, "NVIDIA A100-SXM4-80GB")
    assert fifth.hours == pytest.approx(found.hours / 5, rel=1e-3)


def test_gpu_hours_stop_with_the_steps() -> None:
    whole = estimate_gpu_hours(RECIPE, 12_800, LLAVA_7B, 750.0).hours
    stopped = estimate_gpu_hours(replace(RECIPE, max_steps=25), 12_800, LLAVA_7B, 750.0).hours
    assert stopped == pytest.approx(whole / 4)


# --- what a recipe asks of the machine --------------------------------------------------------


def named(found: list[Requirement], name: str) -> Requirement:
    return next(r for r in found if r.name.startswith(name))


def test_a_machine_that_has_all(tmp_path: Path) -> None:
    found = requirements.requirements(
        RECIPE, parameters=LLAVA_7B, folder=tmp_path / "not" / "yet", devices=[A100] * 8
    )
    assert [r.name for r in found if not r.met] == []
    assert named(found, "global batch").found == "8 process(es) x 16 x 1 accumulated"
    assert "GiB needed at most" in named(found, "disk").found


def test_a_machine_that_lacks_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(RECIPE, quantization="nf4", zero_stage=2, processes=4, global_batch=64)
    usage = requirements.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    monkeypatch.setattr(requirements.shutil, "disk_usage", lambda p: usage._replace(free=0))
    small = Gpu("small", 4 * GIB)
    found = requirements.requirements(
        replace(recipe, nodes=1), parameters=LLAVA_7B, folder=tmp_path, devices=[small] * 3
    )
    unmet = {r.name for r in found if not r.met}
    assert unmet == {
        "package deepspeed",
        "package bitsandbytes",
        "4 process(es) a node",
        "GPU memory",
        "disk for checkpoints",
    }
    assert named(found, "GPU memory").fatal
    assert "train.processes=auto, or at most 3" in named(found, "4 process").remedy
    three = requirements.requirements(replace(RECIPE, processes="auto"), devices=[A100] * 3)
    divides = named(three, "global batch")
    assert not divides.met
    assert "global_batch=96 or 144" in divides.remedy


def test_too_little_memory_for_the_micro_batch_alone_is_no_stop() -> None:
    card = Gpu("NVIDIA A10", 24 * GIB)
    found = requirements.memory(replace(RECIPE, zero_stage=2), LLAVA_7B, [card])
    assert not found.met
    assert not found.fatal
    assert "micro_batch" in found.remedy


def test_what_a_recipe_needs() -> None:
    names = [r.name for r in requirements.requirements(load("demo"))]
    assert names == ["package deepspeed", "1 process(es) a node", "global batch 16"]
    assert "package bitsandbytes" in [
        r.name for r in requirements.requirements(replace(RECIPE, quantization="nf4", zero_stage=2))
    ]
    assert "package deepspeed" not in [
        r.name for r in requirements.requirements(replace(RECIPE, zero_stage=0))
    ]


def test_checkpoints_hold_sixteen_bytes_a_trained_parameter() -> None:
    assert checkpoint_bytes(RECIPE, parameters=LLAVA_7B, shape=VICUNA) == 16 * trained_parameters(
        RECIPE, VICUNA
    )


def test_gpus_are_read_off_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    lines = [f"{i}, GPU-{i}{i}, NVIDIA A100-SXM4-80GB, 81920" for i in range(3)]
    program.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert gpus({}) == (A100,) * 3
    assert gpus({"CUDA_VISIBLE_DEVICES": "2,GPU-00"}) == (A100,) * 2
    assert gpus({"CUDA_VISIBLE_DEVICES": ""}) == ()
    monkeypatch.setenv("PATH", "/nowhere")
    assert devices.gpus({}) == ()


def test_resume_in_another_layout_is_refused_before_anything_runs(bench: Bench) -> None:
    step = bench.step(zero_stage=2, processes=2)
    assert requirements.resumable(bench.store, step, Recipe(zero_stage=2, processes=2)) is None
    path = bench.partial(step) / "checkpoints" / "checkpoint-4"
    path.mkdir(parents=True)
    mark_complete(path, step=4, world_size=8, zero_stage=2, seconds=1.0)

    def ask(**fields: Any) -> Requirement:
        found = requirements.resumable(bench.store, step, Recipe(**fields))
        assert found is not None
        return found

    refused = ask(zero_stage=2, processes=2)
    assert not refused.met
    assert "written by 8 process(es) with ZeRO stage 2" in refused.remedy
    assert ask(zero_stage=2, processes=8).met
    assert ask(zero_stage=2, processes=4, nodes=2).met
    assert not ask(zero_stage=3, processes=8).met
    assert ask(zero_stage=2, processes="auto").met  # known where it runs
