"""What lmms-eval returns for one task -> scores, and one record per sample."""

from __future__ import annotations

import inspect
import math
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from coincide.ops.resample import parts as units_of
from coincide.ops.resample import ratio_of_sums, standard_error
from coincide.schema import Score, UserError
from eval.judged import failure
from eval.parts import PARTS, Part, Parts, Sample, number
from eval.request import Job
from eval.units import recorded

KEPT = ("question_id", "category")
"""Columns of the document that go into the sample's record, where it has them."""

Aggregate = Callable[..., Any]


def split_key(key: str) -> tuple[str, str]:
    """lmms-eval's metric and filter, e.g. ``exact_match`` -> ``exact_match``, ``none``."""
    metric, _, filtered = key.partition(",")
    return metric, filtered or "none"


def by_filter(logged: Sequence[Sample], filters: Sequence[str]) -> dict[str, list[Sample]]:
    """The logged samples under each filter, by document.

    lmms-eval logs every sample once per filter, in the filters' order and without their names, and
    each process's samples after one another.
    """
    found: dict[str, list[Sample]] = {name: [] for name in filters}
    seen: Counter[int] = Counter()
    for sample in sorted(logged, key=lambda sample: sample["doc_id"]):
        found[filters[seen[sample["doc_id"]]]].append(sample)
        seen[sample["doc_id"]] += 1
    return found


def scores(
    filtered: Mapping[str, list[Sample]], aggregates: Mapping[str, Aggregate], job: Job, out: str
) -> list[dict[str, Any]]:
    """One :class:`Score` per metric of the job, as a dict, by the task's own ``aggregates``.

    A value that is no finite number is missing, with the reason; so is one to which a judge's
    failed call would belong. ``out``: folder for files that an aggregate writes.
    """
    known = [f"{m},{f}" for f, rows in filtered.items() for m in aggregates if _logged(m, rows)]
    made = []
    for name, key in job.metrics.items():
        metric, filter_name = split_key(key)
        if f"{metric},{filter_name}" not in known:
            raise UserError(
                f"benchmark {job.name}: metric {name} is {key!r}, which task {job.task} does not "
                f"give; it gives {', '.join(sorted(known))}."
            )
        score = _score(name, metric, aggregates[metric], filtered[filter_name], job, out)
        made.append(asdict(score))
    return made


def records(filtered: Mapping[str, list[Sample]], job: Job) -> list[dict[str, Any]]:
    """Per sample: ``doc_id``, ``question``, ``answer``, ``target``, ids, ``score``, and its part
    in the primary metric where that is no plain mean (``coincide.ops.resample.parts``).

    ``score`` is None where a sample has no value.
    """
    metric, filter_name = split_key(job.metrics[job.primary])
    samples = filtered[filter_name]
    return [
        {
            "doc_id": sample["doc_id"],
            "question": sample["arguments"][0],
            "answer": _first(sample["resps"]),
            "target": _target(sample),
            "score": None,
            **recorded(sample),
            **(part.record() if part else {}),
            **{name: sample["doc"][name] for name in KEPT if name in sample["doc"]},
        }
        for sample, part in zip(samples, _parts(samples, metric, job), strict=True)
    ]


def _logged(metric: str, samples: Sequence[Sample]) -> bool:
    return any(metric in sample for sample in samples)


def _score(
    name: str, metric: str, aggregate: Aggregate, samples: Sequence[Sample], job: Job, out: str
) -> Score:
    def missing(why: str) -> Score:
        return Score(job.name, name, None, len(samples), protocol=job.protocol, why=why)

    failures = Counter(why for sample in samples if (why := failure(sample)))
    if failures:
        reasons = ", ".join(f"{why}: {count}" for why, count in sorted(failures.items()))
        asked = f"{failures.total()} of {len(samples)} judge calls failed"
        return missing(f"{asked} ({reasons}); the same command asks for them again")
    items = [sample[metric] for sample in samples if metric in sample]
    args = {"args": Namespace(output_path=out)}
    takes_args = "args" in inspect.signature(aggregate).parameters
    found = aggregate(items, **(args if takes_args else {}))
    value = number(found)
    if value is None:
        return missing(f"lmms-eval returned {found!r}")
    value *= job.scale
    return Score(
        job.name, name, value, len(items), _stderr(value, name, metric, samples, job), job.protocol
    )


def _stderr(
    value: float, name: str, metric: str, samples: Sequence[Sample], job: Job
) -> float | None:
    """Standard error from the samples (lmms-eval's own is meaningless for F1 and MME's sums).

    None where the samples do not add up to the value, whose error is then another's.
    """
    own = name == job.primary or job.parts == "pairs"
    parts = _parts(samples, metric, job) if own else PARTS["mean"](samples, metric, job.scale)
    rows = [
        {"doc_id": i, **recorded(sample), **part.record()}
        for i, (sample, part) in enumerate(zip(samples, parts, strict=True))
        if part
    ]
    units = units_of(rows)
    [again] = ratio_of_sums(units.num, units.den, units.strata)
    if not math.isclose(again, value, rel_tol=1e-3, abs_tol=1e-12):
        return None
    return standard_error(units)


def _parts(samples: Sequence[Sample], metric: str, job: Job) -> Parts:
    """Each sample's part in a metric; None for those that a judge has not marked."""
    marked = [sample for sample in samples if failure(sample) is None]
    found = iter(PARTS[job.parts](marked, metric, job.scale))
    whole: list[Part | None] = []
    for sample in samples:
        whole.append(next(found) if failure(sample) is None else None)
    return whole


def _target(sample: Sample) -> str:
    """What is true, as text: of several accepted answers each once, the most frequent first.

    VQA tasks name a column ``answer`` that their data lack, which lmms-eval takes literally.
    """
    target = sample["target"]
    if target in ("answer", "answers") and "answer" not in sample["doc"]:
        target = sample["doc"].get("answers") or target
    if not isinstance(target, (list, tuple)):
        return str(target)
    texts = [str(t["answer"]) if isinstance(t, Mapping) else str(t) for t in target]
    return " | ".join(text for text, _ in Counter(texts).most_common())


def _first(responses: Any) -> str:
    while isinstance(responses, (list, tuple)):
        responses = responses[0]
    return str(responses)
