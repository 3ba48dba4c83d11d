"""Today's methods from the command line, on the demo: one pass, and the model's own eyes."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import run as program
from coincide.config import FeaturePass
from coincide.experiment import Experiment
from coincide.features.engine.shards import ShardedArray
from coincide.features.extract import extract, signal_step
from coincide.features.forward import capture
from coincide.features.passes.reference import ReferencePass
from coincide.features.signals.token_scores import TokenScores
from coincide.features.signals.token_scores_blind import TokenScoresBlind
from coincide.schema import Dataset, Signal
from coincide.store import Step

METHODS = ("visnec", "prism", "scalselect", "magic", "rds")
SMALL = ("data.n=200", "reference.dtype=float32", "budget=30", "stages=[features,select]",
         "health.largest_cluster=1", "health.empty_clusters=1")  # fmt: skip


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Experiment], list[int]]:
    """The five methods as one sweep, and how many rows each run of the model had."""
    folder = tmp_path_factory.mktemp("sweep")
    words = (*SMALL, f"paths.store={folder}/store")
    (plain,) = program.compose_all([*words, "method=random"])
    program.executor(plain).run(plain)
    (data,) = (folder / "store" / "data").iterdir()
    rows = json.loads((data / "train.json").read_text())
    (folder / "dev.json").write_text(json.dumps(rows[:6]))
    targets = ("targets=llava_json", f"targets.annotations={folder}/dev.json",
               f"targets.images={data}/images")  # fmt: skip
    jobs = program.compose_all(["-m", *words, f"method={','.join(METHODS)}", *targets])
    seen: list[int] = []
    real = capture.run

    def run(network: Any, batch: Any, *more: Any) -> Any:
        seen.append(len(batch["input_ids"]))
        return real(network, batch, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capture, "run", run)
        for job in jobs:
            program.executor(job).run(job)
    return {job.experiment.method.name: job.experiment for job in jobs}, seen


def test_five_methods_take_one_pass_of_whole_and_blind_rows(
    ran: tuple[dict[str, Experiment], list[int]],
) -> None:
    experiments, seen = ran
    dataset = experiments["rds"].source.open(
        experiments["rds"].store.artifact(experiments["rds"].data).path
    )
    with_image = sum(bool(example.images) for example in dataset.examples)
    assert sum(seen) == 200 + with_image + 6, "every row, blind ones with an image, target rows"


@pytest.mark.parametrize("name", METHODS)
def test_each_gives_its_subset(ran: tuple[dict[str, Experiment], list[int]], name: str) -> None:
    experiment = ran[0][name]
    subset = experiment.store.artifact(experiment.subset)
    rows = np.load(subset.path / "rows.npy")
    assert len(set(rows.tolist())) == 30
    assert subset.facts["topped_up"] == 0
    looked = "targets" in experiment.contents()
    assert looked == (name == "rds")
    if name == "rds":
        assert set(range(6)) <= set(rows.tolist()), "a target finds itself first"


@dataclass(frozen=True)
class Swapped:
    """The first rows of a dataset that have one image, each with the image of another."""

    dataset: Dataset
    name: str = "swapped"

    def step(self) -> Step:
        return Step("data", self.name, 1, {}, lambda build: {"rows": len(self.rows)})

    @property
    def rows(self) -> list[int]:
        return [e.row for e in self.dataset.examples if len(e.images) == 1][:48]

    def open(self, artifact: Path) -> Dataset:
        shown = [self.dataset.examples[row] for row in self.rows]
        others = shown[17:] + shown[:17]
        pairs = enumerate(zip(shown, others, strict=True))
        return replace(
            self.dataset,
            examples=tuple(replace(e, row=i, images=o.images) for i, (e, o) in pairs),
        )


def test_a_model_that_sees_gains_by_the_image_and_less_by_anothers(
    ran: tuple[dict[str, Experiment], list[int]],
) -> None:
    experiment = ran[0]["visnec"]
    seeing, blind = (
        ShardedArray(experiment.store.artifact(experiment.signal(s)).path)[:]
        for s in (TokenScores(), TokenScoresBlind())
    )
    gain = blind[:, 0] - seeing[:, 2]
    dataset = experiment.source.open(experiment.store.artifact(experiment.data).path)
    swapped = Swapped(dataset)
    over = ReferencePass(experiment.reference, swapped, "float32", FeaturePass())
    step, base = swapped.step(), experiment.reference.step()
    experiment.store.ensure(step)
    signals: tuple[Signal, ...] = (TokenScores(), TokenScoresBlind())
    made = extract(
        experiment.store, {s: signal_step(s, over, data=step, base=base) for s in signals}, over
    )
    other, same = (ShardedArray(artifact.path)[:] for artifact in made)
    rows = swapped.rows
    np.testing.assert_allclose(same, blind[rows], atol=1e-4)  # without the image, the same row
    assert (same[:, 0] - other[:, 2]).mean() < gain[rows].mean() - 0.1
    texts = [example.row for example in dataset.examples if not example.images]
    assert texts and (gain[texts] == 0).all()
