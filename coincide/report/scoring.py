"""Results by another reading of the same replies: ``scoring=lenient``, with protocols of its
own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from coincide.ledger.evidence import LENIENT, STRICT
from coincide.ledger.result import Result, Score
from coincide.report.notes import primary
from coincide.schema import UserError

READINGS = (STRICT, LENIENT)
UNKNOWN = "no lenient reading was recorded"


def by_scoring(results: Sequence[Result], scoring: str) -> list[Result]:
    """``results`` with the scores of the reading ``scoring``, one of ``READINGS``.

    A lenient result belongs to another suite, so it never shares a row with a strict one, nor is
    100 % of one. A benchmark without a lenient score (a judge scores it, or an earlier version
    evaluated it) is missing. Raises UserError for another ``scoring``.
    """
    if scoring not in READINGS:
        raise UserError(f"scoring={scoring!r}; the choices are {', '.join(READINGS)}.")
    return list(results) if scoring == STRICT else [_lenient(result) for result in results]


def _lenient(result: Result) -> Result:
    known = {score.benchmark for score in result.lenient}
    lacking = [_unknown(s) for name, s in primary(result).items() if name not in known]
    order = {name: i for i, name in enumerate(primary(result))}
    scores = sorted([*result.lenient, *lacking], key=lambda s: order.get(s.benchmark, len(order)))
    return replace(result, suite=f"{result.suite}, lenient reading", scores=tuple(scores))


def _unknown(score: Score) -> Score:
    return replace(
        score, value=None, stderr=None, why=UNKNOWN, protocol="scoring=lenient", readable=None,
        lmms_eval=None,
    )  # fmt: skip
