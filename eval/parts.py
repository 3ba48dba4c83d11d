"""How samples add up to a metric: S = sum over strata of (sum of num) / (sum of den).

See ``coincide.ops.resample``. What a sample is worth says its rule (``eval.rules``).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.sample import UNITS

Sample = Mapping[str, Any]


@dataclass(frozen=True)
class ScorePart:
    """One sample's share of a metric.

    The fields are those that ``coincide.ops.resample.resampling_units`` reads.
    """

    score: float
    """How right the sample is, in the unit of the metric."""
    num: float | None = None
    den: float | None = None
    unit: str | None = None
    stratum: str | None = None

    def record(self) -> dict[str, Any]:
        """Its fields in ``samples.jsonl``, those at their defaults left out."""
        return {name: value for name, value in vars(self).items() if value is not None}


ScoreParts = list[ScorePart | None]
"""Per sample; None: it has no value, e.g. since it belongs to another part of the benchmark."""


@dataclass(frozen=True)
class ScoredSample:
    """One sample as a metric sees it."""

    mark: Any
    """What the task logged for the metric."""
    right: float
    """The share of it that is right, 0 to 1; of a task without a rule, its own number."""
    said: str | None = None
    """``yes`` or ``no`` as it was read, where the metric counts positives; None: unreadable."""
    true: str | None = None


ScoredSamples = Sequence[ScoredSample | None]
"""None: the sample has no value of the metric."""


def mean(items: ScoredSamples, scale: float) -> ScoreParts:
    """How right the samples are, averaged."""
    return [None if item is None else ScorePart(scale * item.right) for item in items]


def judged(items: ScoredSamples, scale: float) -> ScoreParts:
    """MM-Vet: marks from 0 to 1, averaged, in percent."""
    return mean(items, 100 * scale)


def f1(items: ScoredSamples, scale: float) -> ScoreParts:
    """2 TP / (2 TP + FP + FN), where (FP + TP) + (FN + TP) is said yes plus true yes.

    A positive question that was not answered yes is a miss, whatever was answered.
    """
    return _counted(items, scale, lambda said, true: (2.0 * (said and true), float(said) + true))


def precision(items: ScoredSamples, scale: float) -> ScoreParts:
    """The share of the replies read as yes that are right."""
    return _counted(items, scale, lambda said, true: (float(said and true), float(said)))


def recall(items: ScoredSamples, scale: float) -> ScoreParts:
    """The share of the positive questions that were answered yes."""
    return _counted(items, scale, lambda said, true: (float(said and true), float(true)))


def yes_share(items: ScoredSamples, scale: float) -> ScoreParts:
    """The share of all replies that were read as yes."""
    return _counted(items, scale, lambda said, true: (float(said), 1.0))


def _counted(
    items: ScoredSamples, scale: float, count: Callable[[bool, bool], tuple[float, float]]
) -> ScoreParts:
    def part(item: ScoredSample) -> ScorePart:
        num, den = count(item.said == "yes", item.true == "yes")
        return ScorePart(scale * item.right, scale * num, den)

    return [None if item is None else part(item) for item in items]


def pairs(items: ScoredSamples, scale: float) -> ScoreParts:
    """MME: per category, the mean over pictures of 100 (right / 2) + 100 (both right).

    A picture that lacks one of its two questions has no value.
    """
    names = [None if item is None else UNITS["pairs"](item.mark, 0) for item in items]
    counts = Counter(names)
    wrong = {
        name for name, item in zip(names, items, strict=True) if item is not None and not item.right
    }

    def part(item: ScoredSample, name: str) -> ScorePart:
        whole = 0.0 if name in wrong else scale * 50.0
        right = scale * 50.0 * item.right
        return ScorePart(item.right, right + whole, 0.5, name, str(item.mark["category"]))

    return [
        None if item is None or name is None or counts[name] != 2 else part(item, name)
        for item, name in zip(items, names, strict=True)
    ]


def circular(items: ScoredSamples, scale: float) -> ScoreParts:
    """MMBench: a question counts, once, when all rotations of its choices are answered right.

    Rotations without the question as it was first asked have no value.
    """
    names = [None if item is None else UNITS["circular"](item.mark, 0) for item in items]
    groups: dict[str, list[ScoredSample]] = {}
    for name, item in zip(names, items, strict=True):
        if item is not None and name is not None:
            groups.setdefault(name, []).append(item)
    hits = {
        name: 100.0 * scale * all(item.right == 1.0 for item in rows)
        for name, rows in groups.items()
        if any(int(item.mark["index"]) < 1_000_000 for item in rows)
    }
    return [
        ScorePart(hits[name], hits[name] / len(groups[name]), 1 / len(groups[name]), name)
        if name in hits
        else None
        for name in names
    ]


def preference(items: ScoredSamples, scale: float) -> ScoreParts:
    """LLaVA-W: 100 x the sum of the model's marks over that of the reference answers' marks."""

    def part(item: ScoredSample) -> ScorePart | None:
        theirs, ours = item.mark["scores"]
        if min(theirs, ours) < 0:
            return None
        return ScorePart(10.0 * scale * ours, 100.0 * scale * ours, theirs)

    return [None if item is None else part(item) for item in items]


PARTS: Mapping[str, Callable[[ScoredSamples, float], ScoreParts]] = {
    "mean": mean,
    "judged": judged,
    "letters": mean,
    "mmmu": mean,
    "f1": f1,
    "precision": precision,
    "recall": recall,
    "yes_share": yes_share,
    "pairs": pairs,
    "circular": circular,
    "preference": preference,
}
OF_THE_PRIMARY = frozenset({"f1", "precision", "recall", "yes_share"})
"""Kinds that other metrics of the benchmark do not share."""
ROUNDED = {"preference": 0.0501, "mmmu_val": 0.00101}
"""By kind or task, in the unit of the metric: how much lmms-eval rounds its figure off."""


def number(value: Any) -> float | None:
    """``value`` (or its ``score``, where a metric keeps a dict per sample) if it is a number."""
    if isinstance(value, Mapping):
        value = value.get("score")
    try:
        found = None if value is None or isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        return None
    return found if found is not None and math.isfinite(found) else None
