"""The benchmarks of ``conf/benchmark`` over the small hub, answered by a script."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from coincide.ledger.result import Score
from coincide.store import Step, Store
from eval.judge import Judge, JudgeClient
from eval.loading import load_tasks
from eval.request import BenchmarkJob
from eval.stage import eval_steps
from eval.suite import Benchmark, Suite
from eval.worker import evaluate, prepare
from tests.eval.bench import CONF, TinyModel, data_step
from tests.eval.scripted import Answerer

NAMES = sorted(
    path.stem for path in (CONF / "benchmark").glob("*.yaml") if not path.stem.startswith("demo_")
)
Reply = Callable[[str, dict[str, Any], int], str]


@cache
def benchmark(name: str) -> Benchmark:
    """``conf/benchmark/<name>.yaml``."""
    return instantiate(OmegaConf.load(CONF / "benchmark" / f"{name}.yaml"), _convert_="all")


JUDGED = [name for name in NAMES if benchmark(name).judge]
LOCAL = [name for name in NAMES if name not in JUDGED]


def suite(name: str, mirror: Path, only: str = "", **changes: Any) -> Suite:
    """``conf/eval/<name>.yaml`` over ``mirror`` on the CPU, of its benchmarks those in ``only``."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(overrides=[f"+eval={name}", f"+paths.benchmarks={mirror}"])
    whole: Suite = instantiate(config.eval, _convert_="all")
    kept = {k: b for k, b in whole.benchmarks.items() if not only or k in only.split()}
    return replace(whole, benchmarks=kept, device="cpu", **changes)


def steps(store: Store, chosen: Suite) -> list[Step]:
    """The steps of a suite for the tiny model, whose artifacts are built first."""
    base, data = TinyModel().step(), data_step()
    store.ensure(base)
    return eval_steps(chosen, model=TinyModel(), base=base, adapter=None, data=data)


class Bench:
    """Benchmarks loaded once in this process, by the functions that the worker calls."""

    def __init__(self, folder: Path, names: list[str], judge: Judge, key: str = "") -> None:
        self.client = JudgeClient(judge, key, sleep=lambda seconds: None)
        self.jobs = {name: job(benchmark(name), folder / name) for name in names}
        self.manager, self.tasks = load_tasks(list(self.jobs.values()), folder / "tasks")
        for name, task in self.tasks.items():
            prepare(task, self.jobs[name], self.client)
        self.model: Answerer

    def run(self, name: str, reply: Reply) -> dict[str, Score]:
        """The scores of a model that answers by ``reply``."""
        self.model = Answerer(reply)
        self.client.in_a_row = 0
        evaluate(self.model, self.jobs[name], self.tasks[name], self.manager)
        record = json.loads((Path(self.jobs[name].output) / "result.json").read_text())
        return {score["metric"]: Score(**score) for score in record["scores"]}

    def samples(self, name: str) -> list[dict[str, Any]]:
        lines = (Path(self.jobs[name].output) / "samples.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


def job(measured: Benchmark, output: Path) -> BenchmarkJob:
    output.mkdir(parents=True, exist_ok=True)
    return BenchmarkJob(
        measured.name, measured.task, measured.metrics, measured.primary, measured.protocol_text,
        str(output), overlay=str(measured.overlay_path) if measured.overlay_path else None,
        where=measured.where, scale=measured.scale, parts=measured.parts,
        unit=measured.unit, judged=measured.judge,
    )  # fmt: skip


def values(scores: Mapping[str, Score]) -> dict[str, float | None]:
    return {metric: score.value for metric, score in scores.items()}
