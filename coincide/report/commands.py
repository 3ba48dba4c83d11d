"""Command lines that repeat a result, or make one that is missing."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from coincide.ledger.result import Result

_OF_THE_METHOD = ("method", "budget", "stages", "dry_run")


def repeat(result: Result) -> str:
    """The command line of ``result``.

    Exact if the run recorded its overrides (``config.overrides``, a list of ``name=value``);
    otherwise made from the names of its parts, without other changed fields.
    """
    recorded = result.config.get("overrides")
    if isinstance(recorded, list | tuple):
        return _line(str(word) for word in recorded)
    budget = [] if result.method == "full" else [f"budget={result.config.get('budget', result.k)}"]
    return _line([f"method={result.method}", *_parts(result), *budget, f"seed={result.seed}"])


def full_run(result: Result) -> str:
    """The command of the full-data run that ``result`` is to be compared with."""
    recorded = result.config.get("overrides")
    if not isinstance(recorded, list | tuple):
        return _line(["method=full", *_parts(result), f"seed={result.seed}"])
    kept = [str(w) for w in recorded if _name(str(w)).split(".")[0] not in _OF_THE_METHOD]
    return _line(["method=full", *kept])


def _parts(result: Result) -> list[str]:
    return [f"data={result.data}", f"target={result.target}", f"eval={result.suite}"]


def _name(override: str) -> str:
    return override.split("=", 1)[0].lstrip("+~")


def _line(words: Iterable[str]) -> str:
    return shlex.join(["python", "run.py", *words])
