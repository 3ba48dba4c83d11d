"""Compute scores and one record per sample from what lmms-eval returns for a task.

A score is computed from the samples, by the task's rule. If lmms-eval's own figure differs, it is
recorded beside the score (``Score.lmms_eval``) and never replaces it.
"""

from __future__ import annotations

import inspect
import math
import re
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from coincide.ledger.result import Score
from coincide.ops.resample import ratio_of_sums, standard_error
from coincide.ops.resample import resampling_units as units_of
from coincide.schema import UserError
from eval import order
from eval.judged import failure
from eval.parts import (
    OF_THE_PRIMARY,
    PARTS,
    ROUNDED,
    Sample,
    ScoredSample,
    ScorePart,
    ScoreParts,
    number,
)
from eval.readers import SENTENCE, Reading
from eval.request import BenchmarkJob
from eval.rules import RULES, ReplyRule
from eval.units import KEY, record_field

KEPT = ("question_id", "category")
"""Columns of the document that are copied to the sample's record, if it has them."""
UNDEFINED = {"precision": "no reply was read as yes", "recall": "no question has the answer yes"}
"""By kind: why a figure is undefined when its denominator is 0."""
LENIENT = "scoring=lenient"

Aggregate = Callable[..., Any]
ScoreDocumentReply = Callable[[int, str], float | None]
"""Document and reply -> the task's own mark of the primary metric."""


@dataclass(frozen=True)
class ReadReply:
    """A reply as it was read strictly and leniently."""

    strict: Reading
    lenient: Reading | None = None
    right: float = 0.0
    """Share that is right by the lenient reading, 0 to 1."""


ReadReplies = Sequence[ReadReply | None]
"""One per document; None: the task has no rule, or the sample no value."""


def split_key(key: str) -> tuple[str, str]:
    """lmms-eval's metric and filter, e.g. ``exact_match`` -> ``exact_match``, ``none``."""
    metric, _, filtered = key.partition(",")
    return metric, filtered or "none"


def by_filter(logged: Sequence[Sample], filters: Sequence[str]) -> dict[str, list[Sample]]:
    """The logged samples under each filter, ordered by document.

    lmms-eval logs every sample once per filter, in the order of the filters and without their
    names, and each process's samples after one another.
    """
    found: dict[str, list[Sample]] = {name: [] for name in filters}
    seen: Counter[int] = Counter()
    for sample in sorted(logged, key=lambda sample: sample["doc_id"]):
        found[filters[seen[sample["doc_id"]]]].append(sample)
        seen[sample["doc_id"]] += 1
    return found


def read(
    filtered: Mapping[str, list[Sample]], job: BenchmarkJob, again: ScoreDocumentReply
) -> ReadReplies:
    """Each reply as read by the rule of the job's task."""
    metric, filter_name = split_key(job.metrics[job.primary])
    rule = RULES.get(job.task)
    samples = filtered[filter_name]
    return [None if rule is None else _read(rule, sample, metric, again) for sample in samples]


def _read(rule: ReplyRule, sample: Sample, metric: str, again: ScoreDocumentReply) -> ReadReply:
    doc, reply = sample["doc"], _first(sample["resps"])
    strict = rule.strict(doc, reply)
    own = rule.own(sample[metric]) if metric in sample else None
    right = rule.mark(doc, reply, strict, own)
    if strict == SENTENCE and right is not None and right >= 1.0:
        strict = Reading(reply.strip())  # the very answer is a sentence
    if rule.lenient is None:
        return ReadReply(strict)
    lenient, mark = rule.lenient(
        doc, reply, right or 0.0, lambda phrase: again(sample["doc_id"], phrase)
    )
    return ReadReply(strict, lenient, mark)


def check_metrics(names: Sequence[str], filters: Sequence[str], job: BenchmarkJob) -> None:
    """Raises UserError if the job asks for a metric that its task does not give."""
    known = [f"{metric},{each}" for each in filters for metric in names]
    for name, key in job.metrics.items():
        if ",".join(split_key(key)) not in known:
            raise UserError(
                f"benchmark {job.name}: metric {name} is {key!r}, which task {job.task} does not "
                f"give; it gives {', '.join(sorted(known))}."
            )


def scores(
    filtered: Mapping[str, list[Sample]],
    aggregates: Mapping[str, Aggregate],
    job: BenchmarkJob,
    out: str,
    reads: ReadReplies,
) -> list[dict[str, Any]]:
    """One :class:`coincide.ledger.result.Score` per metric of the job, as a dict.

    For a task of this project or of the user (``tasks_dir``) its ``aggregates`` decide how samples
    add up. For lmms-eval's own tasks the rule decides or, without one, the mean if the task's
    figure equals it. An undefined figure is missing, with the reason; so is a figure to which a
    failed call of a judge belongs. ``out``: folder for files that an aggregate writes.
    """
    check_metrics(list(aggregates), list(filtered), job)
    made = []
    for name, key in job.metrics.items():
        metric, filter_name = split_key(key)
        samples = filtered[filter_name]
        marks = [sample[metric] for sample in samples if metric in sample]
        theirs = _theirs(aggregates[metric], marks, job.scale, out)
        made.append(asdict(_score(name, metric, theirs, samples, job, reads)))
    return made


def lenient_scores(
    filtered: Mapping[str, list[Sample]], job: BenchmarkJob, reads: ReadReplies
) -> list[dict[str, Any]]:
    """The scores of the lenient reading of the same replies; empty if there is none."""
    made = []
    for name, key in job.metrics.items():
        metric, filter_name = split_key(key)
        samples, rule = filtered[filter_name], RULES.get(job.task)
        if rule is None or rule.lenient is None:
            continue
        known = [r.lenient.said for r in _of(metric, samples, reads) if r and r.lenient]
        kind = _kind(name, metric, job, rule, own=False)
        value, error = _figure(_lenient_parts(samples, metric, kind, job, reads))
        made.append(
            Score(
                job.name, name, value, len(known), error, lenient_protocol(job.protocol),
                why="" if value is not None else UNDEFINED.get(kind, "no sample has a value"),
                readable=_share(known),
            )
        )  # fmt: skip
    return [asdict(score) for score in made]


def lenient_protocol(protocol: str) -> str:
    """The protocol of the lenient reading: the strict one with another ``scoring``."""
    found, count = re.subn(r"(?<![^ ])scoring=.*?(?=; \w+=|$)", LENIENT, protocol, count=1)
    return found if count else "; ".join(filter(None, [protocol, LENIENT]))


def readable(reads: ReadReplies) -> float | None:
    """Share of the replies that could be read; None if the task has no rule."""
    return _share([r.strict.said for r in reads if r])


def records(
    filtered: Mapping[str, list[Sample]], job: BenchmarkJob, reads: ReadReplies
) -> list[dict[str, Any]]:
    """A record per sample, for ``samples.jsonl``.

    Fields: ``doc_id``, ``question``, ``answer``, ``target``, ids, ``score`` (None if it has no
    value), and its part in the primary metric if that is not a plain mean
    (``coincide.ops.resample.resampling_units``). For a task with a rule also ``read_as`` (None:
    unreadable, with the kind of reason in ``unreadable``), and the same for the lenient reading:
    ``lenient_as``, ``lenient`` (the score), ``lenient_num`` and ``lenient_den``.
    """
    metric, filter_name = split_key(job.metrics[job.primary])
    samples, rule = filtered[filter_name], RULES.get(job.task)
    strict = _parts(samples, metric, _kind(job.primary, metric, job, rule), job, reads)
    kind = _kind(job.primary, metric, job, rule, own=False)
    lenient = _lenient_parts(samples, metric, kind, job, reads)
    return [
        {
            "doc_id": sample["doc_id"],
            "question": sample["arguments"][0],
            "answer": _first(sample["resps"]),
            "target": _target(sample),
            "score": None,
            **record_field(sample),
            **order.record_field(sample),
            **(part.record() if part else {}),
            **(_as_read(one, other) if one else {}),
            **{name: sample["doc"][name] for name in KEPT if name in sample["doc"]},
        }
        for sample, part, other, one in zip(samples, strict, lenient, reads, strict=True)
    ]


def _as_read(one: ReadReply, part: ScorePart | None) -> dict[str, Any]:
    strict: dict[str, Any] = {"read_as": one.strict.said}
    if one.strict.said is None:
        strict["unreadable"] = one.strict.why
    if one.lenient is None:
        return strict
    fields = {"num": part.num, "den": part.den} if part else {}
    more = {f"lenient_{name}": value for name, value in fields.items() if value is not None}
    return {**strict, "lenient_as": one.lenient.said, "lenient": part and part.score, **more}


def _theirs(aggregate: Aggregate, marks: Sequence[Any], scale: float, out: str) -> Any:
    """lmms-eval's own figure, scaled; or what it returned or raised instead of a number."""
    takes_args = "args" in inspect.signature(aggregate).parameters
    args = {"args": Namespace(output_path=out)} if takes_args else {}
    try:
        found = aggregate(list(marks), **args)
    except Exception as error:  # e.g. a division by no samples
        return f"{type(error).__name__}: {error}"
    value = number(found)
    return found if value is None else value * scale


def _score(
    name: str,
    metric: str,
    theirs: Any,
    samples: Sequence[Sample],
    job: BenchmarkJob,
    reads: ReadReplies,
) -> Score:
    rule, mine = RULES.get(job.task), _of(metric, samples, reads)
    share = _share([r.strict.said for r in mine if r])
    score = Score(job.name, name, None, len(mine), protocol=job.protocol, readable=share)
    failures = Counter(why for sample in samples if (why := failure(sample)))
    if failures:
        reasons = ", ".join(f"{why}: {count}" for why, count in sorted(failures.items()))
        asked = f"{failures.total()} of {len(samples)} judge calls failed"
        return replace(score, why=f"{asked} ({reasons}); the same command asks for them again")
    kind = _kind(name, metric, job, rule)
    parts = _parts(samples, metric, kind, job, reads)
    ours, error = _figure(parts)
    value = theirs if isinstance(theirs, float) and math.isfinite(theirs) else None
    if job.tasks_dir:
        if value is None:
            return replace(score, why=f"lmms-eval returned {theirs!r}")
        fits = ours is not None and math.isclose(ours, value, rel_tol=1e-3, abs_tol=1e-12)
        return replace(score, value=value, stderr=error if fits else None)
    lacking = sum(part is None and metric in s for part, s in zip(parts, samples, strict=True))
    if lacking and kind in INCOMPLETE:
        return replace(score, why=INCOMPLETE[kind].format(lacking), lmms_eval=value)
    if ours is None:
        why = UNDEFINED.get(kind, f"no sample has a value; lmms-eval returned {theirs!r}")
        return replace(score, why=why, lmms_eval=value)
    if value is not None and _same(ours, value, kind, job):
        return replace(score, value=ours, stderr=error)
    if rule is None:
        why = f"its samples' {kind} is {ours:.6g}, but lmms-eval's figure {_shown(theirs)}"
        return replace(score, why=f"{why}: parts has to say how they add up", lmms_eval=value)
    return replace(score, value=ours, stderr=error, lmms_eval=value)


INCOMPLETE = {
    "pairs": "{} questions lack the other one about their picture",
    "circular": "{} rotations lack their question as it was first asked",
}
"""By kind: why there is no figure where samples belong to no whole unit."""


def _same(ours: float, theirs: float, kind: str, job: BenchmarkJob) -> bool:
    """Whether two figures differ only by what lmms-eval rounds."""
    rounded = max(ROUNDED.get(kind, 0.0), ROUNDED.get(job.task, 0.0))
    return math.isclose(ours, theirs, rel_tol=1e-6, abs_tol=max(1e-9, rounded * job.scale))


def _shown(theirs: Any) -> str:
    return f"{theirs:.6g}" if isinstance(theirs, float) else repr(theirs)


def _kind(
    name: str, metric: str, job: BenchmarkJob, rule: ReplyRule | None, *, own: bool = True
) -> str:
    """How the samples of a metric add up. With ``own``, a task of our own decides itself."""
    if rule and metric in rule.sums and not (own and job.tasks_dir):
        return rule.sums[metric]
    return "mean" if name != job.primary and job.parts in OF_THE_PRIMARY else job.parts


def _figure(parts: ScoreParts) -> tuple[float | None, float | None]:
    """The score that the parts add up to, and its standard error over units; None: undefined."""
    units = units_of([{"doc_id": i, **part.record()} for i, part in enumerate(parts) if part])
    [value] = ratio_of_sums(units.num, units.den, units.strata)
    return (float(value), standard_error(units)) if math.isfinite(value) else (None, None)


def _parts(
    samples: Sequence[Sample], metric: str, kind: str, job: BenchmarkJob, reads: ReadReplies
) -> ScoreParts:
    """Each sample's part in a metric by the strict reading."""
    rule = RULES.get(job.task)

    def right(sample: Sample, one: ReadReply | None) -> float | None:
        if rule is None or one is None:
            return number(sample[metric])
        own = rule.own(sample[metric])
        return rule.mark(sample["doc"], _first(sample["resps"]), one.strict, own)

    return _added(samples, metric, kind, job, reads, right, lambda one: one.strict)


def _lenient_parts(
    samples: Sequence[Sample], metric: str, kind: str, job: BenchmarkJob, reads: ReadReplies
) -> ScoreParts:
    """Each sample's part in a metric by the lenient reading; None if there is none."""

    def right(sample: Sample, one: ReadReply | None) -> float | None:
        return one.right if one and one.lenient else None

    return _added(samples, metric, kind, job, reads, right, lambda one: one.lenient)


def _added(
    samples: Sequence[Sample],
    metric: str,
    kind: str,
    job: BenchmarkJob,
    reads: ReadReplies,
    right: Callable[[Sample, ReadReply | None], float | None],
    reading: Callable[[ReadReply], Reading | None],
) -> ScoreParts:
    """The parts of all samples; None for one without the metric or without a judge's mark."""
    rule = RULES.get(job.task)

    def item(sample: Sample, one: ReadReply | None) -> ScoredSample | None:
        share = right(sample, one) if metric in sample and failure(sample) is None else None
        if share is None:
            return None
        said = reading(one) if one else None
        true = rule.true(sample["doc"]) if rule and rule.true else None
        return ScoredSample(sample[metric], share, said.said if said else None, true)

    items = [item(sample, one) for sample, one in zip(samples, reads, strict=True)]
    return with_units(PARTS[kind](items, job.scale), samples, job)


def with_units(parts: ScoreParts, samples: Sequence[Sample], job: BenchmarkJob) -> ScoreParts:
    """The parts with the unit of resampling of each sample, unless ``PARTS`` has set one.

    All figures, standard errors and records go through this function.
    """
    return [
        replace(part, unit=sample[KEY]) if part and part.unit is None and KEY in sample else part
        for part, sample in zip(parts, samples, strict=True)
    ]


def _of(metric: str, samples: Sequence[Sample], reads: ReadReplies) -> list[ReadReply | None]:
    """The readings of the samples that have the metric."""
    return [one for sample, one in zip(samples, reads, strict=True) if metric in sample]


def _share(said: Sequence[str | None]) -> float | None:
    return sum(one is not None for one in said) / len(said) if said else None


def _target(sample: Sample) -> str:
    """The target as text; of several accepted answers each once, the most frequent first.

    VQA tasks name a column ``answer`` that their data lack; lmms-eval then takes the name
    literally.
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
