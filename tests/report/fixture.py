"""Invented results for the report's tests; no number here was measured."""

from __future__ import annotations

from coincide.schema import Result, Score

BENCHMARKS = ("attributes", "counting", "presence")


def result(
    method: str, seed: int, values: tuple[float | None, ...], *, budget: float = 0.2, **more: object
) -> Result:
    scores = tuple(
        Score(name, "exact_match", value, 200, 3.0, "demo, greedy", "" if value else "worker died")
        for name, value in zip(BENCHMARKS, values, strict=True)
    )
    fields = {
        "method": method, "variant": "released" if method == "coincide" else "", "data": "demo",
        "reference": "tiny_ref", "target": "tiny", "suite": "demo", "budget": budget,
        "k": round(4000 * budget), "seed": seed, "scores": scores,
        "seconds": {"features": 30.0, "select": 4.0, "train": 40.0 + seed, "evaluate": 25.0},
        "keys": {"subset": f"subset/{method}-{budget}-{seed:012x}"},
        "composition": {"vqa": round(800 * budget), "digits": round(3200 * budget)},
        "config": {"budget": budget, "api_key": "hunter2"}, "versions": {"torch": "2.14.1"},
        "commit": "abc", "created": f"2026-01-0{seed + 1}T00:00:00Z",
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
