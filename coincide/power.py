"""``python -m coincide.power difference=1.5``: the chance that a sweep will show a difference.

Words, all with a value: ``difference`` in points of Rel. (%), ``methods`` (10), ``seeds`` (5),
``questions`` (as many as were asked), ``chance`` (0.8) that is wanted, and ``noise``, a report.json
of ``experiment=lab_noise`` or its like (``reports/report.json``, else the one that ships with the
project), or instead of it ``deviation``, the standard deviation of one run in points, and
``minutes``, what a run takes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from coincide.ops.variance import NoiseParts
from coincide.report.decompose import Noise, better_buy, chance_to_see, noise_from
from coincide.report.statistics import seeds_for
from coincide.schema import UserError
from coincide.terminal.inert import guard_terminal

SHIPPED = Path(__file__).resolve().parents[1] / "docs" / "lab_noise" / "report.json"
HERE = Path("reports") / "report.json"
NUMBERS = {
    "difference": None, "methods": 10, "seeds": 5, "questions": None, "chance": 0.8,
    "deviation": None, "minutes": None,
}  # fmt: skip
COUNTS = ("methods", "seeds", "questions")


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; exit status 2 for words that it does not know."""
    try:
        given = _given(list(sys.argv[1:] if words is None else words))
        noise = _noise(given)
        print("\n".join(answer(noise, given)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def answer(noise: Noise, given: Mapping[str, Any]) -> list[str]:
    """What the noise says of the sweep in ``given``, as lines."""
    size, methods, seeds = given["difference"], given["methods"], given["seeds"]
    asked = given["questions"] or noise.parts.asked or 0
    deviation = noise.parts.deviation(asked or None)
    seen = chance_to_see(noise, size, methods=methods, seeds=seeds, asked=asked or None)
    what = f"{methods} methods x {seeds} seeds" + (f", {asked:,} questions" if asked else "")
    found = [
        f"{noise.label}: {noise.of} of one run has a standard deviation of {deviation:.2g} points.",
        f"{what}: a difference of {size:g} points between two methods is seen with a chance of "
        f"{100 * seen:.0f} % (two-sided, 5 %).",
    ]
    wanted = seeds_for(size, deviation, methods=methods, chance=given["chance"])
    needs = "more than 10,000" if wanted is None else f"{wanted:,}"
    found.append(f"For {100 * given['chance']:g} % it takes {needs} seeds.")
    if noise.seconds is not None:
        evaluation = noise.evaluation or 0.0
        times = asked / noise.parts.asked if asked and noise.parts.asked else 1.0
        run = noise.seconds + (times - 1) * evaluation
        hours = methods * seeds * run / 3600
        measured = "" if given["minutes"] else ", as the measured ones took (minutes= for others)"
        found.append(
            f"Time: {hours:.2g} hours of one process at a time, {run / 60:.2g} minutes a run"
            f"{measured}."
        )
    return [*found, *filter(None, [better_buy(noise)])]


def _given(words: Sequence[str]) -> dict[str, Any]:
    known = (*NUMBERS, "noise")
    given: dict[str, Any] = {**NUMBERS, "noise": None}
    for word in words:
        name, sign, value = word.lstrip("-").partition("=")
        if name in ("h", "help"):
            raise UserError((__doc__ or "").strip())
        if not sign or name not in known:
            raise UserError(f"{word!r}; expected name=value, with a name of {', '.join(known)}.")
        given[name] = value if name == "noise" else _number(name, value)
    if given["difference"] is None:
        raise UserError(
            "difference=POINTS is needed: the difference in Rel. (%) that is asked about."
        )
    if not 0 < given["chance"] < 1:
        raise UserError(f"chance={given['chance']}; expected a number between 0 and 1, as 0.8.")
    return given


def _number(name: str, text: str) -> float | int:
    count = name in COUNTS
    try:
        value = int(text) if count else float(text)
    except ValueError:
        value = -1
    least = {"seeds": 2, "methods": 2}.get(name, 1 if count else 0)
    if not (least <= value < float("inf")) or (not count and value == 0):
        kind = f"a whole number, {least} or more" if count else "a number above 0"
        raise UserError(f"{name}={text!r}; expected {kind}.")
    return value


def _noise(given: Mapping[str, Any]) -> Noise:
    if given["deviation"] is not None:
        if given["questions"] is not None:
            raise UserError(
                "questions says nothing beside deviation: give noise=report.json instead."
            )
        seconds = None if given["minutes"] is None else 60.0 * given["minutes"]
        parts = NoiseParts(given["deviation"] ** 2, 0.0, None)
        return Noise("as given", 0, 0, 0, "Rel. (%)", parts, seconds, None)
    named = [Path(given["noise"])] if given["noise"] else [HERE, SHIPPED]
    path = next((path for path in named if path.is_file()), None)
    if path is None:
        raise UserError(
            f"no {' nor '.join(map(str, named))}: measure the noise with python run.py "
            "experiment=lab_noise launcher=processes, or give deviation=POINTS."
        )
    try:
        panels = json.loads(path.read_text(encoding="utf-8"))
        found = [noise_from(record) for panel in panels for record in panel.get("noise", ())]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is no report.json of this version ({error}).") from error
    if not found:
        raise UserError(
            f"{path} has no nested runs: it takes runs of several seeds, each with several "
            "train.seed, as experiment=lab_noise makes them."
        )
    return _at(found[0], given["minutes"])


def _at(noise: Noise, minutes: float | None) -> Noise:
    """``noise`` with runs of so many minutes; its own where None."""
    if minutes is None:
        return noise
    share = noise.evaluation / noise.seconds if noise.evaluation and noise.seconds else None
    seconds = 60.0 * minutes
    return replace(noise, seconds=seconds, evaluation=None if share is None else share * seconds)


if __name__ == "__main__":
    guard_terminal()
    sys.exit(main())
