"""How likely a model finds the right answer to a question, beside whether its own is right.

Accuracy moves only where an answer turns; the likelihood of the right answer with every change
of the model, so that two methods are told apart with fewer runs and questions. Of each sample: the
nats per token of the right answer, its end included, and, where the benchmark offers alternatives,
the margin in nats of the right one over the likeliest other. A benchmark's figure is the mean over
samples of exp(-nats), the geometric mean probability of the answer's tokens, and, where every
sample has a margin, of 1 / (1 + exp(-margin)), the probability of the right answer if it and the
likeliest other were all: how a model words a yes, and what it would say beside, do not count, as
they do not in the accuracy. Both are 0 to 1, higher is better, so that Rel. (%) is defined as for
accuracy.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from coincide.ledger.evidence import likelihoods
from coincide.ledger.result import Score
from coincide.ops.resample import resampling_units, standard_error
from coincide.system.files import digest_of

METRIC = "likelihood"
LONGEST = 100
"""Characters of an answer; longer ones, which no two models give alike, are not looked at."""
DIGITS = 4
"""Decimals that are kept: sums in another batch differ beyond them."""
PROTOCOL = "score=likelihood of the answer per token"
OF_TWO = "score=likelihood of the right answer against the likeliest other"
NO_ANSWER = "its right answers are no short texts whose likelihood could be taken"
NOT_RECORDED = (
    "no likelihoods were recorded (by a version without them, with eval.likelihood=false, or "
    "for answers taken over from such an evaluation)"
)


@dataclass(frozen=True)
class Candidates:
    """The right answer and its alternatives, each in the forms in which models give it, of which
    the likeliest counts."""

    right: tuple[str, ...]
    others: tuple[tuple[str, ...], ...] = ()

    @property
    def digest(self) -> str:
        """8 hexadecimal digits by which a later evaluation knows what was looked at."""
        return digest_of([self.right, self.others])[:8]

    @property
    def texts(self) -> list[str]:
        """All forms: of the right answer, then of the others."""
        return [*self.right, *(form for forms in self.others for form in forms)]


def short_answer(target: Any) -> Candidates | None:
    """The accepted answer, of several the most frequent; None where there is none."""
    texts = target if isinstance(target, list | tuple) else [target]
    said = [str(t["answer"]) if isinstance(t, Mapping) and "answer" in t else t for t in texts]
    known = Counter(t.strip() for t in said if isinstance(t, str) and t.strip())
    right = known.most_common(1)[0][0] if known else ""
    return Candidates((right,)) if 0 < len(right) <= LONGEST else None


def one_of(right: str, options: Sequence[str], *, cases: bool = False) -> Candidates | None:
    """``right`` among ``options``; with ``cases`` also with a capital letter. None where it is not
    one of several."""

    def forms(text: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys((text, text.capitalize()))) if cases else (text,)

    if right not in options or len(options) < 2:
        return None
    return Candidates(forms(right), tuple(forms(o) for o in options if o != right))


def likelihood(
    candidates: Candidates, logs: Sequence[float], tokens: Sequence[int]
) -> tuple[float, ...]:
    """Nats per token of the right answer and, with alternatives, its margin in nats; from the log
    probability and the number of tokens, end included, of each of ``candidates.texts``.
    """
    rights = len(candidates.right)
    nats = min(-log / count for log, count in zip(logs[:rights], tokens[:rights], strict=True))
    margin = [max(logs[:rights]) - max(logs[rights:])] if candidates.others else []
    return tuple(round(value, DIGITS) for value in (nats, *margin))


def record_fields(
    found: Sequence[float] | None, candidates: Candidates | None
) -> dict[str, float | str | None]:
    """``nats``, ``margin`` and ``candidates``, their digest, for a sample's record: ``nats`` None
    where the answer is no short text; without any where nothing was recorded."""
    if found is None:
        return {}
    if not found or candidates is None:
        return {"nats": None}
    numbers = dict(zip(("nats", "margin"), found, strict=False))
    return {**numbers, "candidates": candidates.digest}


def recorded(row: Mapping[str, Any]) -> tuple[str, tuple[float, ...]] | None:
    """The other way: the digest of the candidates, and what was found, of a sample's record; None
    where it holds none."""
    if row.get("nats") is None or not isinstance(row.get("candidates"), str):
        return None
    found = tuple(row[name] for name in ("nats", "margin") if row.get(name) is not None)
    return row["candidates"], found


def likelihood_scores(rows: Sequence[Mapping[str, Any]], job: Any) -> list[dict[str, Any]]:
    """The figures of a benchmark's records: ``likelihood``, and the means of ``nats`` and, where
    all have it, ``margin``, over the samples with a short answer. Missing, with the reason, if that
    of a sample was not recorded.
    """
    scored = [row for row in rows if row["score"] is not None]
    recorded = all("nats" in row for row in scored)
    scored = [row for row in scored if row.get("nats") is not None]
    offered = bool(scored) and all(row.get("margin") is not None for row in scored)
    protocol = "; ".join(filter(None, [job.protocol, OF_TWO if offered else PROTOCOL]))
    if not recorded or not scored:
        why = NOT_RECORDED if not recorded else NO_ANSWER
        return [asdict(Score(job.name, METRIC, None, 0, protocol=protocol, why=why))]
    nats = [row["nats"] for row in scored]
    margin = [row["margin"] if offered else math.nan for row in scored]
    likely = likelihoods(np.array(nats), np.array(margin)).tolist()
    figures = {METRIC: likely, "nats": nats, **({"margin": margin} if offered else {})}
    return [asdict(_mean(name, values, scored, job, protocol)) for name, values in figures.items()]


def _mean(
    name: str, values: Sequence[float], rows: Sequence[Mapping[str, Any]], job: Any, protocol: str
) -> Score:
    units = resampling_units(
        [
            {
                "doc_id": row["doc_id"],
                "score": value,
                **({"unit": row["unit"]} if "unit" in row else {}),
            }
            for row, value in zip(rows, values, strict=True)
        ]
    )
    mean, error = math.fsum(values) / len(values), standard_error(units)
    return Score(job.name, name, mean, len(values), error, protocol)
