"""Warm-ups: adapters and moments kept at shares of the pool."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from coincide.models.tuned import MOMENTS, WEIGHTS
from coincide.schema import SubsetOf, UserError, WarmUp
from coincide.store import Artifact, Step, Store
from tests.train.test_training import ranks_of
from tests.train.tiny import ROWS, TINY, Bench, TinyData, TinyModel
from train.lora import add_lora
from train.moments import in_file, moments_of
from train.recipe import Recipe
from train.warmup import recipe_of, steps_at, warmup_step


@dataclass(frozen=True)
class Sized(TinyData):
    def size(self) -> int:
        return ROWS


def step_of(bench: Bench, need: WarmUp) -> Step:
    base, data, subset = bench.step().needs
    return warmup_step(
        need, Recipe(**TINY), model=TinyModel(), base=base, source=Sized(), data=data,
        subset=subset, seed=0,
    )  # fmt: skip


NEED = WarmUp(SubsetOf(None), (0.4, 7.8), (("epochs", 8),))
"""Kept after steps 2 and 40 of 48."""


@pytest.fixture(scope="module")
def artifact(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A warm-up from beginning to end."""
    root = tmp_path_factory.mktemp("warmup") / "store"
    shutil.copytree(made, root)
    bench = Bench(Store(root))
    return bench.store.ensure(step_of(bench, NEED))


def test_a_warm_up_keeps_what_training_has_at_shares_of_the_pool(artifact: Artifact) -> None:
    """Its end is where the last share has passed, on the schedule of the whole."""
    found = artifact.facts["checkpoints"]
    assert [each["step"] for each in found] == [2, 40] and found[0]["rows"] == 16
    log = [json.loads(line) for line in (artifact.path / "log.jsonl").read_text().splitlines()]
    assert len(log) == 40
    mean = sum(each["learning_rate"] for each in log[2:]) / 38
    assert found[1]["learning_rate"] == pytest.approx(mean)
    kept = [load_file(artifact.path / "model" / f"at-{i:02d}" / WEIGHTS) for i in range(2)]
    moments = load_file(artifact.path / "model" / "at-01" / MOMENTS)
    assert {name.rpartition(".")[0] for name in moments} == set(kept[1])
    assert any(not torch.equal(kept[0][name], kept[1][name]) for name in kept[0])
    assert all(bool((v >= 0).all()) for name, v in moments.items() if name.endswith("_sq"))
    assert not (artifact.path / "adapter").exists()


def test_a_killed_warm_up_goes_on_to_the_same_adapter_and_moments(
    artifact: Artifact, bench: Bench
) -> None:
    """Killed after a checkpoint, when one adapter was kept and the last was not."""
    step = step_of(bench, NEED)
    partial = bench.partial(step)

    def kill() -> None:
        while not (partial / "checkpoints" / "checkpoint-4" / "complete").exists():
            time.sleep(0.005)
        os.kill(ranks_of(partial)[0], signal.SIGKILL)

    Thread(target=kill, daemon=True).start()
    with pytest.raises(UserError, match="SIGKILL"):
        bench.store.ensure(step)
    assert (partial / "model" / "at-00").exists() and not (partial / "model" / "at-01").exists()
    resumed = bench.store.ensure(step)
    assert resumed.facts["attempts"] == 2
    for name in ("at-00", "at-01"):
        for file in (WEIGHTS, MOMENTS):
            one, other = (each.path / "model" / name / file for each in (resumed, artifact))
            assert one.read_bytes() == other.read_bytes()


def test_moments_are_adams_by_the_names_of_the_adapters_file(
    llava: LlavaForConditionalGeneration,
) -> None:
    model = add_lora(llava, Recipe(**TINY), base="x", keep_dtype=False)
    named = {in_file(n): p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(named.values(), lr=0.1)
    for parameter in named.values():
        parameter.grad = torch.full_like(parameter, 0.5)
    optimizer.step()
    found = moments_of(model, optimizer)
    assert set(found) == {f"{n}.{m}" for n in named for m in ("exp_avg", "exp_avg_sq")}
    for name, parameter in named.items():
        assert found[f"{name}.exp_avg"].shape == parameter.shape
        torch.testing.assert_close(found[f"{name}.exp_avg"], torch.full_like(parameter, 0.05))
        torch.testing.assert_close(found[f"{name}.exp_avg_sq"], torch.full_like(parameter, 2.5e-4))


def test_shares_of_the_pool_are_steps_of_any_batch_size() -> None:
    """500 steps of 128 of LLaVA-665K, whatever the batch is."""
    for batch, step in ((128, 499), (32, 1996), (16, 3992)):
        recipe = Recipe(global_batch=batch, micro_batch=16)
        assert steps_at([0.096], 665_298, 665_298, recipe) == (step,)
    four = Recipe(global_batch=128, epochs=4)
    assert steps_at([0.05, 0.1, 0.15, 0.2], 10_000, 500, four) == (4, 8, 12, 16)
    assert steps_at([1.0], 100, 90, Recipe(global_batch=16, epochs=1)) == (6,)


def test_shares_that_cannot_be_kept_are_refused() -> None:
    recipe = Recipe(global_batch=16, epochs=1)
    with pytest.raises(UserError, match="more epochs"):
        steps_at([0.5], 1000, 100, recipe)
    with pytest.raises(UserError, match="two of them are one"):
        steps_at([0.01, 0.011], 1000, 1000, recipe)
    for at in ((), (0.2, 0.1), (0.0, 0.1)):
        with pytest.raises(UserError, match="ascending"):
            WarmUp(SubsetOf(None), at)
    with pytest.raises(UserError, match="rate; a recipe has"):
        recipe_of(WarmUp(SubsetOf(None), (0.1,), (("rate", 1),)), recipe)
