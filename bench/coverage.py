"""Print how often a 95 % interval holds the truth, on made data that share pictures as real ones.

    python -m bench.coverage                 # the table; minutes
    python -m bench.coverage --times 200 --paired 50 --only pope mme --processes 2

A benchmark is drawn anew each time: pictures with an ability of their own, questions about them,
and answers of a greedy model, the same wherever a question stands again. Columns, in per cent: the
t interval of one model's score over units of resampling; the same as if rows were independent (what
units cure); the bootstrap interval of the score; and that of the difference of two models that are
equally good (the truth is 0), each of as many draws as the report's. All by the functions of the
product. 93 to 97 is what is wanted. What has been counted so far is told on stderr.

Sharing: POPE 9,000 rows about 500 pictures, whose 3 positive questions each stand in all three
categories and whose negative ones partly do (5,127 questions); GQA 12,578 questions about 398
pictures; VQAv2 214,354 about 40,504; MME's ten categories of perception, pictures in pairs of
questions, 2,114 of its 2,374.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context

import numpy as np

from coincide.ops.resample import ResamplingUnits, ratio_of_sums, standard_error
from coincide.report.paired import TIMES, Sampled, bootstrap, compare, interval
from coincide.report.statistics import t_quantile

MME = (30, 30, 30, 30, 147, 170, 200, 200, 200, 20)
"""Pictures of existence, count, position, color, posters, celebrity, scene, landmark, artwork and
OCR."""
PICTURE, QUESTION, OWN = 1.2, 1.0, 0.8
"""Deviations, in logits: of pictures and questions for all models, and of a model's own."""
LEVEL = 0.7


@dataclass(frozen=True)
class Made:
    """Rows of a benchmark [N], answered by R models: ``num`` and ``den`` [R, N]."""

    num: np.ndarray
    den: np.ndarray
    unit: np.ndarray
    stratum: np.ndarray
    truth: float


Make = Callable[[np.random.Generator], Made]


def chance_of(spread: float, power: int = 1, inner: float = 0.0) -> float:
    """Mean over N(0, spread²) of (mean over N(0, inner²) of the chance to be right) ** power."""
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    logits = LEVEL + spread * points[:, None] + inner * points[None, :]
    return float(weights @ ((1 / (1 + np.exp(-logits))) @ weights) ** power)


def simulate_answers(
    rng: np.random.Generator, unit: np.ndarray, question: np.ndarray
) -> np.ndarray:
    """float [2, N]: whether two models answer each row right; equal questions, equal answers."""
    pictures, questions = int(unit.max()) + 1, int(question.max()) + 1
    shared = rng.normal(0, PICTURE, pictures)[unit] + rng.normal(0, QUESTION, questions)[question]
    found = []
    for _ in range(2):
        own = rng.normal(0, OWN, pictures)[unit]
        dice = rng.random(questions)[question]
        found.append(dice < 1 / (1 + np.exp(-(LEVEL + shared + own))))
    return np.array(found, dtype=float)


def vqa(rows: int, pictures: int, least: int) -> Make:
    """Questions of their own, ``least`` a picture and the others anywhere."""
    shape = np.random.default_rng(0)
    weights = shape.gamma(3.0, size=pictures)
    sizes = least + shape.multinomial(rows - least * pictures, weights / weights.sum())
    unit = np.repeat(np.arange(pictures), sizes)
    truth = chance_of(np.sqrt(PICTURE**2 + QUESTION**2 + OWN**2))

    def make(rng: np.random.Generator) -> Made:
        hits = simulate_answers(rng, unit, np.arange(rows))
        return Made(hits, np.ones_like(hits), unit, np.zeros(rows, int), truth)

    return make


def pope(pictures: int = 500, distinct: int = 5127) -> Make:
    """F1: a positive row answered yes is a true positive, a negative one a false positive."""
    unit = np.repeat(np.arange(pictures), 18)
    place = np.tile(np.arange(18), pictures)
    yes = place < 9
    own = np.where(yes, place % 3, place)  # each of three positive questions in three categories
    again = 3 * pictures + 9 * pictures - distinct
    repeats = (
        np.flatnonzero(place == 9)[np.arange(again) % pictures] + 1 + np.arange(again) // pictures
    )
    own[repeats] = 9  # negative ones that stand in more than one category
    _, question = np.unique(unit * 18 + own, return_inverse=True)
    assert len(np.unique(question)) == distinct
    p = chance_of(np.sqrt(PICTURE**2 + QUESTION**2 + OWN**2))
    truth = 100 * 2 * p / (2 * p + (1 - p) + (1 - p))

    def make(rng: np.random.Generator) -> Made:
        hits = simulate_answers(rng, unit, question)
        said = np.where(yes, hits, 1 - hits)
        return Made(200 * said * yes, said + yes, unit, np.zeros(len(unit), int), truth)

    return make


def mme(sizes: Sequence[int] = MME) -> Make:
    """Sum over categories of the share right and of the share of pictures with both right."""
    unit = np.repeat(np.arange(sum(sizes)), 2)
    stratum = np.repeat(np.arange(len(sizes)), 2 * np.array(sizes))
    spread = np.sqrt(PICTURE**2 + OWN**2)
    truth = len(sizes) * 100 * (chance_of(spread, 1, QUESTION) + chance_of(spread, 2, QUESTION))

    def make(rng: np.random.Generator) -> Made:
        hits = simulate_answers(rng, unit, np.arange(len(unit)))
        both = np.repeat(hits[:, ::2] * hits[:, 1::2], 2, axis=1)
        return Made(50 * hits + 50 * both, np.full_like(hits, 0.5), unit, stratum, truth)

    return make


BENCHMARKS: dict[str, Callable[[], Make]] = {
    "pope": pope,
    "gqa": lambda: vqa(12_578, 398, 5),
    "vqav2": lambda: vqa(214_354, 40_504, 3),
    "mme": mme,
}


def by_unit(made: Made) -> Sampled:
    """The rows added up by unit, as the report has them."""
    _, start, place = np.unique(made.unit, return_index=True, return_inverse=True)
    num, den = (
        np.stack([np.bincount(place, each) for each in part]) for part in (made.num, made.den)
    )
    return Sampled(num, den, made.stratum[start])


def holds(of: Sampled, truth: float) -> bool:
    """Whether the t interval of the first model's score, over ``of``'s units, holds ``truth``."""
    units = ResamplingUnits(tuple(map(str, range(of.units))), of.num[0], of.den[0], of.strata)
    [score] = ratio_of_sums(units.num, units.den, units.strata)
    error = standard_error(units) or 0.0
    return bool(abs(score - truth) <= t_quantile(of.units - 1) * error)


COLUMNS = ("score", "as rows", "bootstrap", "difference")


def held(name: str, paired: int, draws: int, i: int) -> dict[str, bool]:
    """Column -> whether its interval held the truth on data set ``i`` of benchmark ``name``.

    The bootstrap's columns for the first ``paired`` data sets alone.
    """
    made = _make(name)(np.random.default_rng(i))
    of = by_unit(made)
    rows = Sampled(made.num, made.den, made.stratum)
    found = {"score": holds(of, made.truth), "as rows": holds(rows, made.truth)}
    if i < paired:
        drawn = bootstrap({"a": of}, [(0,), (1,)], None, times=draws, seed=i)["a"]
        low, high = interval(drawn, 0)
        found["bootstrap"] = bool(low <= made.truth <= high)
        found["difference"] = compare(drawn, 0, 1).verdict == "indistinguishable"
    return found


@cache
def _make(name: str) -> Make:
    return BENCHMARKS[name]()


def coverage(
    name: str, times: int, paired: int, draws: int = TIMES, processes: int = 1
) -> dict[str, tuple[int, int]]:
    """Column -> how many intervals held the truth, of how many. Any number of processes gives the
    same counts.
    """
    counts = dict.fromkeys(COLUMNS, (0, 0))
    one = partial(held, name, paired, draws)
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:  # starts none for one
        found = pool.map(one, range(times)) if processes > 1 else map(one, range(times))
        for i, columns in enumerate(found, 1):
            for column, is_held in columns.items():
                n, of = counts[column]
                counts[column] = (n + is_held, of + 1)
            if i % max(1, times // 20) == 0:
                print(f"{name}: {i} of {times}: {counts}", file=sys.stderr, flush=True)
    return counts


def main() -> None:
    """Draw, count, print a row for each benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=2000, help="data sets for t intervals")
    parser.add_argument("--paired", type=int, default=1000, help="of these, for the bootstrap")
    parser.add_argument("--draws", type=int, default=TIMES, help="replicates of each bootstrap")
    parser.add_argument("--processes", type=int, default=1, help="data sets at a time")
    parser.add_argument("--only", nargs="*", choices=BENCHMARKS, default=list(BENCHMARKS))
    given = parser.parse_args()
    print("| benchmark | score | as rows | bootstrap | difference |")
    print("| --- | ---: | ---: | ---: | ---: |", flush=True)
    for name in given.only:
        found = coverage(name, given.times, given.paired, given.draws, given.processes)
        cells = [f"{100 * n / max(1, of):.1f} of {of}" for n, of in found.values()]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
