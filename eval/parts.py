"""How samples add up to a metric: S = sum over strata of (sum of num) / (sum of den).

See ``coincide.ops.resample``. Each function takes the scored samples of a metric and a ``scale``
(e.g. 100 for percent) and returns each sample's part. How a single reply is scored is decided by
its rule (``eval.rules``).
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
        """Its fields for ``samples.jsonl``, without those at their defaults."""
        return {name: value for name, value in vars(self).items() if value is not None}


ScoreParts = list[ScorePart | None]
"""One per sample; None: it has no value, e.g. because it belongs to another part of the
benchmark."""


@dataclass(frozen=True)
class ScoredSample:
    """One scored sample, as a metric uses it."""

    mark: Any
    """The value that the task logged for the metric."""
    right: float
    """Share of the sample that is right, 0 to 1; for a task without a rule, the task's own
    number."""
    said: str | None = None
    """``yes`` or ``no`` as read from the reply, for metrics that count positives; None:
    unreadable."""
    true: str | None = None
    """``yes`` or ``no``: the right answer."""


ScoredSamples = Sequence[ScoredSample | None]
"""One per sample; None: it has no value of the metric."""


def mean(items: ScoredSamples, scale: float) -> ScoreParts:
    """The mean of how right the samples are."""
    return [None if item is None else ScorePart(scale * item.right) for item in items]


def judged(items: ScoredSamples, scale: float) -> ScoreParts:
    """MM-Vet: mean of the judge's marks (0 to 1), in percent."""
    return mean(items, 100 * scale)


def f1(items: ScoredSamples, scale: float) -> ScoreParts:
    """2 TP / (2 TP + FP + FN); the denominator is the number of yes replies plus yes targets.

    A positive question that was not answered yes is a miss, whatever was answered.
    """
    return _counted(items, scale, lambda said, true: (2.0 * (said and true), float(said) + true))


def precision(items: ScoredSamples, scale: float) -> ScoreParts:
    """Share of the replies read as yes whose target is yes."""
    return _counted(items, scale, lambda said, true: (float(said and true), float(said)))


def recall(items: ScoredSamples, scale: float) -> ScoreParts:
    """Share of the questions with target yes that were answered yes."""
    return _counted(items, scale, lambda said, true: (float(said and true), float(true)))


def yes_share(items: ScoredSamples, scale: float) -> ScoreParts:
    """Share of all replies that were read as yes."""
    return _counted(items, scale, lambda said, true: (float(said), 1.0))


def _counted(
    items: ScoredSamples, scale: float, count: Callable[[bool, bool], tuple[float, float]]
) -> ScoreParts:
    def part(item: ScoredSample) -> ScorePart:
        num, den = count(item.said == "yes", item.true == "yes")
        return ScorePart(scale * item.right, scale * num, den)

    return [None if item is None else part(item) for item in items]


def pairs(items: ScoredSamples, scale: float) -> ScoreParts:
    """MME: per category, the mean over pictures of 100 (right answers / 2) + 100 (both right).

    A picture without both of its questions has no value.
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
    """MMBench: a question counts, once, if all rotations of its choices are answered right.

    Rotations without the original order of the question have no value.
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
    """LLaVA-W: 100 x the sum of the model's marks / the sum of the reference answers' marks."""

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
"""Kinds that only apply to the primary metric of a benchmark."""
ROUNDED = {"preference": 0.0501, "mmmu_val": 0.00101}
"""By kind or task: by how much lmms-eval rounds its figure, in the unit of the metric."""


def number(value: Any) -> float | None:
    """``value``, or its ``score`` if a metric logs a dict per sample, as a float.

    None if no number.
    """
    if isinstance(value, Mapping):
        value = value.get("score")
    try:
        found = None if value is None or isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        return None
    return found if found is not None and math.isfinite(found) else None
