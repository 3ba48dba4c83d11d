"""Out of memory in real processes: the same global batch in smaller parts, from the checkpoint."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from coincide.store import Artifact
from tests.train import small_memory
from tests.train.test_training import assert_same_answer, trained
from tests.train.tiny import Bench
from train import stage
from train.launch import launch

WORKER = (str(Path(small_memory.__file__)),)


@pytest.fixture(scope="module")
def plain(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return trained(made, tmp_path_factory.mktemp("plain"))


@pytest.mark.slow
@pytest.mark.parametrize(("zero_stage", "processes"), [(0, 1), (2, 2)])
def test_smaller_micro_batches_from_the_last_checkpoint(
    plain: Artifact,
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    zero_stage: int,
    processes: int,
) -> None:
    monkeypatch.setattr(stage, "launch", partial(launch, worker=WORKER))
    step = bench.step(zero_stage=zero_stage, processes=processes)
    artifact = bench.store.ensure(step)
    said = capsys.readouterr().out
    assert f"out of memory with train.micro_batch=4; going on with 2 and {4 // processes}" in said
    assert said.count("train: resumed at step 4 (checkpoint-4)") == 1
    assert artifact.facts["micro_batch"] == small_memory.FITS
    assert artifact.facts["steps"] == 12
    assert_same_answer(artifact.path, plain.path)


def test_a_stopped_attempt_keeps_the_micro_batch_that_fitted(bench: Bench, tmp_path: Path) -> None:
    """Unless the recipe or the layout has changed since."""
    from dataclasses import replace

    from tests.train.test_launch import job

    path = tmp_path / "recipe.json"
    former = job(tmp_path, micro_batch=2, accumulation=16)
    former.write(path)
    recipe = former.recipe
    assert stage._micro_batch_that_fits(path, recipe, 1) == 2
    assert stage._micro_batch_that_fits(path, recipe, 2) == 16
    assert stage._micro_batch_that_fits(path, replace(recipe, max_length=64), 1) == 16
    assert stage._micro_batch_that_fits(tmp_path / "none.json", recipe, 1) == 16
    assert json.loads(path.read_text())["micro_batch"] == 2
