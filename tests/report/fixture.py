"""Invented results for the report's tests; no number here was measured."""

from __future__ import annotations

import random

from coincide.ledger.result import Result, Score

BENCHMARKS = ("attributes", "counting", "presence")
SOURCES = ("scene_vqa", "scene_count", "digits", "texture", "charts", "text", "yes_no", "describe")
METHODS = (
    "random", "coincide", "clip_score", "el2n", "perplexity", "semdedup", "d2_pruning",
    "self_sup", "self_filter",
)  # fmt: skip


def result(
    method: str, seed: int, values: tuple[float | None, ...], *, budget: float = 0.2, **more: object
) -> Result:
    scores = tuple(
        Score(name, "exact_match", value, 200, 3.0, "demo, greedy", "" if value else "worker died")
        for name, value in zip(BENCHMARKS, values, strict=False)
    )
    fields = {
        "method": method, "variant": "released" if method == "coincide" else "", "data": "demo",
        "reference": "tiny_ref" if method == "coincide" else "", "target": "tiny", "suite": "demo",
        "budget": budget, "k": round(4000 * budget), "seed": seed, "scores": scores,
        "seconds": {"features": 30.0, "select": 4.0, "train": 40.0 + seed, "evaluate": 25.0},
        "keys": {"subset": f"subset/{method}-{budget}-{seed:012x}"},
        "composition": {"vqa": round(800 * budget), "digits": round(3200 * budget)},
        "config": {
            "budget": budget, "seed": seed, "api_key": "hunter2", "train": {"lr": 2e-3},
            "method": {"name": method}, "data": {"name": "demo", "n": 4000},
        },
        "versions": {"torch": "2.14.1"}, "commit": "abc",
        "created": f"2026-01-0{seed + 1}T00:00:00Z",
    }  # fmt: skip
    return Result(**{**fields, **more})  # type: ignore[arg-type]


def ledger() -> list[Result]:
    """Full, random at two budgets and coincide, two seeds each."""
    return [
        result("full", 0, (80.0, 60.0, 90.0), budget=1.0),
        result("full", 1, (84.0, 64.0, 94.0), budget=1.0),
        result("random", 0, (41.0, 31.0, 46.0), budget=0.1),
        result("random", 1, (41.0, 31.0, 46.0), budget=0.1),
        result("random", 0, (60.0, 40.0, 80.0)),
        result("random", 1, (64.0, 44.0, 84.0)),
        result("coincide", 0, (70.0, 50.0, 85.0)),
        result("coincide", 1, (74.0, 54.0, 89.0)),
    ]


def sweep(
    methods: int = 9, budgets: tuple[float, ...] = (0.1, 0.2, 0.4), seeds: int = 2
) -> list[Result]:
    """A sweep of the size of a paper's table: up to 9 methods x 3 budgets x seeds, and full."""
    dice = random.Random(7)
    plan = [("full", 1.0), *((m, b) for m in METHODS[:methods] for b in budgets)]
    return [
        result(
            method, seed,
            tuple(dice.gauss(t - 14 * (1 - budget) + len(method) % 4, 1.2) for t in (82, 64, 93)),
            budget=budget,
            composition=_shares(round(4000 * budget), dice),
        )
        for method, budget in plan
        for seed in range(seeds)
    ]  # fmt: skip


def _shares(k: int, dice: random.Random) -> dict[str, int]:
    weights = [dice.uniform(0.5, 3) for _ in SOURCES]
    counts = [int(k * weight / sum(weights)) for weight in weights]
    counts[0] += k - sum(counts)
    return dict(zip(SOURCES, counts, strict=True))
