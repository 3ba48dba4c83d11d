"""bench/train_step.py runs, and what it prints follows from what it measures."""

from __future__ import annotations

import pytest
import torch

from bench import train_step
from bench.train_step import SHAPES, Figures, main, random_llava
from train.estimate import DecoderShape


def test_the_tiny_shape_on_a_cpu(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    clock = iter([0.0, 2.0])
    monkeypatch.setattr(train_step.time, "perf_counter", lambda: next(clock))
    figures = main(["--shape", "tiny", "--micro-batch", "2", "--steps", "3"])
    assert figures.examples_per_second == 3 * 2 / 2.0
    assert figures.tokens_per_second == 3 * 2 * (16 + 174) / 2.0
    text = SHAPES["tiny"]["text"]
    lora = DecoderShape(2, text["hidden_size"], text["intermediate_size"]).lora(128)
    assert figures.trained == lora + 2 * (64 * 64 + 64)
    said = capsys.readouterr().out
    assert "no peak known for this device" in said
    assert "examples/s     3.00" in said


def test_the_real_shape_is_llava_1_5_7b() -> None:
    model = random_llava(SHAPES["7b"], "meta")
    assert sum(p.numel() for p in model.parameters()) == 7_063_427_072
    assert model.config.image_seq_length == 576


def test_utilisation_against_the_data_sheet() -> None:
    figures = Figures("NVIDIA A100-SXM4-80GB", 7, 1, 2.0, 1500.0, 93.6e12, 40 * 2**30)
    assert "MFU 30.0% of 312 TFLOP/s (A100, dense 16-bit)" in figures.lines()[-1]
    assert "40.0 GiB" in figures.lines()[1]
