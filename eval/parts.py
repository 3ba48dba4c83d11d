"""How samples add up to a metric: S = sum over strata of (sum of num) / (sum of den).

See ``coincide.ops.resample``. Each kind reads what lmms-eval's task logs for one metric.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

from eval.sample import UNITS

Sample = Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """One sample's share of a metric; see ``coincide.ops.resample.parts`` for the fields."""

    score: float
    """How right the sample is, in the unit of the metric."""
    num: float | None = None
    den: float | None = None
    unit: str | None = None
    stratum: str | None = None

    def record(self) -> dict[str, Any]:
        """Its fields in ``samples.jsonl``, those at their defaults left out."""
        return {name: value for name, value in vars(self).items() if value is not None}


Parts = list[Part | None]
"""Per sample; None: it has no value, e.g. since it belongs to another part of the benchmark."""


def mean(samples: Sequence[Sample], metric: str, scale: float) -> Parts:
    """A number per sample, or a dict with a ``score``, averaged."""
    numbers = [number(sample.get(metric)) for sample in samples]
    return [None if x is None else Part(scale * x) for x in numbers]


def judged(samples: Sequence[Sample], metric: str, scale: float) -> Parts:
    """MM-Vet: marks from 0 to 1, whose mean the task gives in percent."""
    return mean(samples, metric, 100 * scale)


def letters(samples: Sequence[Sample], metric: str, scale: float) -> Parts:
    """SEED: the answer's letter and the right one."""
    marks = [sample.get(metric) for sample in samples]
    return [
        m and Part(scale * (m["pred"].lower().strip() == m["answer"].lower().strip()))
        for m in marks
    ]


def f1(samples: Sequence[Sample], metric: str, scale: float) -> Parts:
    """POPE: 2 TP / (2 TP + FP + FN), where (FP + TP) + (FN + TP) is said yes plus true yes."""

    def part(mark: Mapping[str, Any]) -> Part:
        said, true = mark["prediction"] == "yes", mark["ground_truth"] == "yes"
        both = said and true
        return Part(scale * mark["score"], scale * 2.0 * both, float(said) + float(true))

    return [part(sample[metric]) for sample in samples]


def pairs(samples: Sequence[Sample], metric: str, scale: float) -> Parts:
    """MME: per category, the mean over pictures of 100 (right / 2) + 100 (both right)."""
    marks = [sample.get(metric) for sample in samples]
    names = [mark and UNITS["pairs"](mark, 0) for mark in marks]
    wrong = {
        name
        for name, mark in zip(names, marks, strict=True)
        if name is not None and mark is not None and not mark["score"]
    }

    def part(mark: Mapping[str, Any], name: str) -> Part:
        right = scale * 50.0 * mark["score"]
        whole = 0.0 if name in wrong else scale * 50.0
        return Part(mark["score"], right + whole, 0.5, name, str(mark["category"]))

    return [
        None if mark is None or name is None else part(mark, name)
        for mark, name in zip(marks, names, strict=True)
    ]


def circular(samples: Sequence[Sample], metric: str, scale: float) -> Parts:
    """MMBench: a question counts, once, when all rotations of its choices are answered right."""
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

    evaluator = MMBench_Evaluator()
    names = [UNITS["circular"](sample[metric], 0) for sample in samples]
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        groups.setdefault(name, []).append(i)
    hits: dict[str, float] = {}
    with redirect_stdout(StringIO()):  # it prints a table each time
        for name, rows in groups.items():
            marks = [dict(samples[i][metric]) for i in rows]
            if any(mark["index"] < 1_000_000 for mark in marks):
                hits[name] = 100 * scale * float(evaluator.eval_result(marks, "static")[0])
    return [
        Part(hits[name], hits[name] / len(groups[name]), 1 / len(groups[name]), name)
        if name in hits
        else None
        for name in names
    ]


def mmmu(samples: Sequence[Sample], metric: str, scale: float) -> Parts:
    """MMMU: right by the task's own comparison of letters, numbers and words."""
    from lmms_eval.tasks.mmmu.utils import evaluate_mmmu

    return [Part(scale * evaluate_mmmu([sample[metric]])[1]["acc"]) for sample in samples]


def preference(samples: Sequence[Sample], metric: str, scale: float) -> Parts:
    """LLaVA-W: 100 x the sum of the model's marks over that of the reference answers' marks."""
    marks = [sample[metric]["scores"] for sample in samples]
    return [
        None if min(ours, theirs) < 0 else Part(10.0 * scale * ours, 100.0 * scale * ours, theirs)
        for theirs, ours in marks
    ]


PARTS: Mapping[str, Callable[[Sequence[Sample], str, float], Parts]] = {
    "mean": mean,
    "judged": judged,
    "letters": letters,
    "f1": f1,
    "pairs": pairs,
    "circular": circular,
    "mmmu": mmmu,
    "preference": preference,
}


def number(value: Any) -> float | None:
    """``value`` (or its ``score``, where a metric keeps a dict per sample) if it is a number."""
    if isinstance(value, Mapping):
        value = value.get("score")
    try:
        found = None if value is None or isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        return None
    return found if found is not None and math.isfinite(found) else None
