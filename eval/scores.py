"""What lmms-eval returns for one task -> scores, and one record per sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from coincide.schema import Score, UserError
from eval.request import Job

KEPT = ("question_id", "category")
"""Columns of the document that go into the sample's record, where it has them."""


def split_key(key: str) -> tuple[str, str]:
    """lmms-eval's metric and filter, e.g. ``exact_match`` -> ``exact_match``, ``none``."""
    metric, _, filtered = key.partition(",")
    return metric, filtered or "none"


def task_samples(outcome: Mapping[str, Any], job: Job, filters: Sequence[str]) -> list[Any]:
    """The logged samples under the filter of the primary metric, by document.

    lmms-eval logs every sample once per filter, one filter after the other, without its name.
    """
    logged = outcome["samples"][job.name]
    _, filtered = split_key(job.metrics[job.primary])
    size = len(logged) // len(filters)
    start = size * filters.index(filtered) if filtered in filters else 0
    return sorted(logged[start : start + size], key=lambda sample: sample["doc_id"])


def scores(outcome: Mapping[str, Any], samples: Sequence[Any], job: Job) -> list[dict[str, Any]]:
    """One :class:`Score` per metric of the job, as a dict.

    A value that is no finite number is missing, with the reason. Raises UserError when lmms-eval
    knows no such metric.
    """
    values = outcome["results"][job.name]
    return [asdict(_score(name, key, values, samples, job)) for name, key in job.metrics.items()]


def records(samples: Sequence[Any], job: Job) -> list[dict[str, Any]]:
    """Per sample: ``doc_id``, ``question``, ``answer``, ``target``, ``score``, and ids.

    ``score`` is the primary metric's, None when it has no value per sample.
    """
    metric, _ = split_key(job.metrics[job.primary])
    return [
        {
            "doc_id": sample["doc_id"],
            "question": sample["arguments"][0],
            "answer": _first(sample["resps"]),
            "target": sample["target"],
            "score": _number(sample.get(metric)),
            **{name: sample["doc"][name] for name in KEPT if name in sample["doc"]},
        }
        for sample in samples
    ]


def _score(
    name: str, key: str, values: Mapping[str, Any], samples: Sequence[Any], job: Job
) -> Score:
    metric, filtered = split_key(key)
    if f"{metric},{filtered}" not in values:
        known = sorted(k for k in values if "," in k and "_stderr" not in k)
        raise UserError(
            f"benchmark {job.name}: metric {name} is {key!r}, which task {job.task} does not give; "
            f"it gives {', '.join(known)}."
        )
    value = _number(values[f"{metric},{filtered}"])
    if value is None:
        why = f"lmms-eval returned {values[f'{metric},{filtered}']!r}"
        return Score(job.name, name, None, len(samples), protocol=job.protocol, why=why)
    return Score(job.name, name, value, len(samples), _stderr(value, metric, samples), job.protocol)


def _stderr(value: float, metric: str, samples: Sequence[Any]) -> float | None:
    """Standard error of a score that is the mean of its samples' values; of others there is none.

    For n samples with standard deviation s (n - 1 in its denominator), s / √n.
    """
    parts = [_number(sample.get(metric)) for sample in samples]
    numbers = [part for part in parts if part is not None]
    n = len(numbers)
    if n < 2 or n < len(parts):
        return None
    mean = math.fsum(numbers) / n
    if not math.isclose(mean, value, rel_tol=1e-9, abs_tol=1e-12):
        return None
    return math.sqrt(math.fsum((x - mean) ** 2 for x in numbers) / (n - 1) / n)


def _number(value: Any) -> float | None:
    """``value`` (or its ``score``, where a metric keeps a dict per sample) if it is a number."""
    if isinstance(value, Mapping):
        value = value.get("score")
    try:
        number = None if value is None or isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        return None
    return number if number is not None and math.isfinite(number) else None


def _first(responses: Any) -> str:
    while isinstance(responses, (list, tuple)):
        responses = responses[0]
    return str(responses)
