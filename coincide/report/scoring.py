"""Results by another reading of the same replies (``scoring=lenient``) or by the likelihood of the
right answers (``score=likelihood``), each with protocols of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from coincide.ledger.evidence import LENIENT, LIKELIHOOD, STRICT
from coincide.ledger.result import Result, Score
from coincide.report.notes import primary
from coincide.schema import UserError

READINGS = (STRICT, LENIENT)
ACCURACY = "accuracy"
SCORES = (ACCURACY, LIKELIHOOD)
UNKNOWN = "no lenient reading was recorded"
NOT_RECORDED = "no likelihood was recorded: it was evaluated by a version without, or without it"


def kind_of(score: str, scoring: str) -> str:
    """What results are scored by, ``STRICT``, ``LENIENT`` or ``LIKELIHOOD``, from the two words.

    Raises UserError for others, and for a lenient likelihood, which there is none of.
    """
    for name, value, choices in (("scoring", scoring, READINGS), ("score", score, SCORES)):
        if value not in choices:
            raise UserError(f"{name}={value!r}; the choices are {', '.join(choices)}.")
    if score == LIKELIHOOD and scoring != STRICT:
        raise UserError(
            f"score={score} with scoring={scoring}: a likelihood is not read off a reply. Give one "
            "of the two words."
        )
    return LIKELIHOOD if score == LIKELIHOOD else scoring


def by_scoring(results: Sequence[Result], scoring: str) -> list[Result]:
    """``results`` with the scores of a reading of the replies (one of ``READINGS``), or with the
    likelihoods of the right answers (``LIKELIHOOD``).

    Such a result belongs to another suite, so it never shares a row with a strict one, nor is 100 %
    of one. A benchmark without such a score (a judge scores it, or an earlier version evaluated it)
    is missing. Raises UserError for another ``scoring``.
    """
    if scoring not in (*READINGS, LIKELIHOOD):
        raise UserError(f"scoring={scoring!r}; the choices are {', '.join(READINGS)}.")
    if scoring == STRICT:
        return list(results)
    if scoring == LENIENT:
        return [_instead(r, r.lenient, "lenient reading", UNKNOWN) for r in results]
    return [_instead(r, r.likelihood, "likelihood", NOT_RECORDED) for r in results]


def _instead(result: Result, scores: Sequence[Score], named: str, unknown: str) -> Result:
    known = {score.benchmark for score in scores}
    lacking = [_unknown(s, named, unknown) for n, s in primary(result).items() if n not in known]
    order = {name: i for i, name in enumerate(primary(result))}
    every = sorted([*scores, *lacking], key=lambda s: order.get(s.benchmark, len(order)))
    return replace(result, suite=f"{result.suite}, {named}", scores=tuple(every))


def _unknown(score: Score, named: str, why: str) -> Score:
    likely = named == LIKELIHOOD
    return replace(
        score, value=None, stderr=None, why=why, readable=None, lmms_eval=None,
        metric=LIKELIHOOD if likely else score.metric,
        protocol="score=likelihood" if likely else "scoring=lenient",
    )  # fmt: skip
