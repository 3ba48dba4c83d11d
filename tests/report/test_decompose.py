"""Where noise comes from, what differences need, and which benchmarks tell methods apart."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coincide import power
from coincide.ledger.evidence import ArtifactShelf
from coincide.ledger.result import Result
from coincide.ops.variance import NoiseParts, nested_parts, question_variance
from coincide.report.build import build_report
from coincide.report.compare import panels
from coincide.report.decompose import decompose
from coincide.report.noise import shared_share
from coincide.report.paired import Sampled
from coincide.report.signal import signal_to_noise
from coincide.report.statistics import power_of, seeds_for, t_quantile
from tests.report.fixture import BENCHMARKS, result
from tests.report.shelf import fill


def simulated(
    rng: np.random.Generator, selections: int, orders: int, questions: int, deviations: list[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Figures [A, B] and values [A * B, questions] of nested runs. ``deviations``: of selection,
    order, what questions have in common, selection x question, run x question."""
    chosen, ordered, common, by_selection, by_run = deviations
    values = rng.normal(0, common, questions) + rng.normal(
        0, by_run, (selections, orders, questions)
    )
    values += rng.normal(0, by_selection, (selections, 1, questions))
    values += rng.normal(0, chosen, (selections, 1, 1)) + rng.normal(
        0, ordered, (selections, orders, 1)
    )
    return values.mean(axis=2), values.reshape(selections * orders, questions)


def test_nested_runs_give_back_the_parts_of_the_noise() -> None:
    rng, parts = np.random.default_rng(0), []
    for _ in range(60):
        figures, values = simulated(rng, 6, 3, 200, [1.0, 0.7, 30.0, 8.0, 12.0])
        found = nested_parts(figures, question_variance(values), 200)
        parts.append([found.selection, found.order, found.questions])
    mean = np.mean(parts, axis=0)
    expected = [1.0, 0.49, (64 + 144) / 200]
    assert mean == pytest.approx(expected, rel=0.25)
    assert NoiseParts(1.0, 0.5, 2.0, 100).variance(200) == 2.5
    assert NoiseParts(1.0, 0.5, None).variance(200) == 1.5


def test_without_samples_the_questions_are_part_of_the_others() -> None:
    figures = np.array([[1.0, 3.0], [5.0, 7.0]])
    found = nested_parts(figures, None)
    assert (found.order, found.selection, found.questions) == (2.0, 8.0 - 1.0, None)


def test_influences_vary_as_the_score_does() -> None:
    rng = np.random.default_rng(1)
    num, den = rng.random((2, 40)), rng.integers(1, 3, (2, 40)).astype(float)
    sampled = Sampled(num, den, np.zeros(40, int), np.repeat(np.arange(20), 2))
    values = sampled.influences()
    assert values.shape == (2, 20) and values.mean(axis=1) == pytest.approx([0, 0], abs=1e-12)
    mean = Sampled(num[:, :20], np.ones((2, 20)), np.zeros(20, int))
    assert mean.influences() == pytest.approx(num[:, :20] - num[:, :20].mean(axis=1)[:, None])


@pytest.mark.parametrize(("size", "seeds", "methods"), [(1.5, 5, 10), (3.0, 3, 4), (0.0, 5, 10)])
def test_the_chance_is_what_simulated_sweeps_have(size: float, seeds: int, methods: int) -> None:
    """Sweeps whose runs have noise of three origins, judged by the least significant difference."""
    rng, parts, times = np.random.default_rng(2), NoiseParts(0.5, 0.3, 0.4, 100), 4000
    runs = rng.normal(0, parts.deviation(50), (times, methods, seeds))
    runs[:, 0] += size
    pooled = np.sqrt(runs.var(axis=2, ddof=1).mean(axis=1))
    least = t_quantile(methods * (seeds - 1)) * pooled * np.sqrt(2 / seeds)
    means = runs.mean(axis=2)
    seen = float((np.abs(means[:, 0] - means[:, 1]) > least).mean())
    told = power_of(size, parts.deviation(50), methods=methods, seeds=seeds)
    assert told == pytest.approx(seen, abs=4 * np.sqrt(max(seen * (1 - seen), 0.01) / times))
    if size:
        needed = seeds_for(size, parts.deviation(), methods=methods, chance=0.8)
        assert needed is not None
        chances = [power_of(size, parts.deviation(), methods=methods, seeds=n)
                   for n in (needed - 1, needed)]  # fmt: skip
        assert chances[0] < 0.8 <= chances[1]


def nested(values: float = 0.0) -> list[Result]:
    """Full data, and random: three selections, two orders each."""
    dice = np.random.default_rng(3)
    runs = [result("full", s, (90.0, 80.0, 95.0), budget=1.0) for s in (0, 1)]
    for order in (0, 1):
        for seed in (0, 1, 2):
            scores = tuple(70 + values + 3 * dice.normal() for _ in BENCHMARKS)
            made = result("random", seed, scores)
            train = {**made.config["train"], "seed": order}  # type: ignore[dict-item]
            keys = {"subset": f"subset/random-{seed:012x}"}
            runs.append(replace(made, config={**made.config, "train": train}, keys=keys))
    return runs


def test_the_report_parts_the_noise_and_power_reads_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = build_report(nested(), tmp_path)
    text = paths["md"].read_text()
    assert (
        "Where noise comes from (random, 800 examples; 3 selections, each trained 2 times)" in text
    )
    assert "the samples of attributes are not in this store" in text and "2 points: " in text
    [noise] = json.loads(paths["json"].read_text())[0]["noise"]
    assert noise["selections"] == 3 and noise["parts"]["questions"] is None
    words = ["difference=2", "methods=4", f"noise={paths['json']}"]
    assert power.main(words) == 0
    said = capsys.readouterr().out
    assert "4 methods x 5 seeds: a difference of 2 points" in said and "hours" in said
    assert power.main(["difference=2", "deviation=1", "seeds=5", "minutes=3"]) == 0
    said = capsys.readouterr().out
    assert f"{100 * power_of(2, 1, methods=10, seeds=5):.0f} %" in said and "2.5 hours" in said


def test_samples_tell_the_questions_part(tmp_path: Path) -> None:
    runs = [r for r in nested() if r.config["train"].get("seed") == 0]  # type: ignore[union-attr]
    filled = fill(tmp_path, [*nested()[:2], *runs], samples=30)
    again = [
        replace(r, config={**r.config, "train": {**r.config["train"], "seed": 1}})  # type: ignore[dict-item]
        for r in filled
        if r.method == "random"
    ]
    [panel] = panels([*filled, *again])
    [noise] = decompose(panel, ArtifactShelf(tmp_path))
    assert noise.parts.asked == 30 * len(BENCHMARKS) and noise.why == ""
    assert noise.parts.order == 0.0, "the same answers twice"
    assert noise.parts.questions and noise.parts.questions > 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "difference=POINTS is needed"),
        (["difference=0"], "a number above 0"),
        (["difference=x"], "a number above 0"),
        (["difference=1", "seeds=1"], "a whole number, 2 or more"),
        (["difference=1", "chance=2"], "between 0 and 1"),
        (["difference=1", "sead=2"], "with a name of difference, methods"),
        (["difference=1", "noise=/no/such.json"], "experiment=lab_noise"),
        (["difference=1", "deviation=1", "questions=9"], "give noise=report.json"),
    ],
)
def test_words_that_say_nothing_are_refused(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert power.main(words) == 2
    assert expected in capsys.readouterr().err


def test_a_file_without_nested_runs_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text, said in (
        ("[]", "no nested runs"),
        ("{", "no report.json"),
        ('[{"noise": [1]}]', "no report"),
    ):
        (tmp_path / "x.json").write_text(text)
        assert power.main(["difference=1", f"noise={tmp_path / 'x.json'}"]) == 2
        assert said in capsys.readouterr().err


def rows_of(limit: float | None) -> list[Result]:
    """Three methods that differ in the first benchmark alone."""
    runs = [result("full", s, (99.0, 80.0 + s, 90.0 + s), budget=1.0) for s in (0, 1)]
    for place, method in enumerate(("random", "coincide", "el2n")):
        runs += [result(method, s, (50.0 + 10 * place + s, 60.0 + s, 70.0 - s)) for s in (0, 1)]
    return [replace(r, config={**r.config, "eval": {"least_signal": limit}}) for r in runs]


def test_signal_to_noise_is_told_and_a_stated_limit_is_kept() -> None:
    [panel] = panels(rows_of(None))
    ratios = signal_to_noise(panel.rows)[800]
    assert ratios["attributes"] == pytest.approx(10 / np.std([0, 1], ddof=1))
    assert ratios["counting"] == 0.0
    assert any(n.text.startswith("Signal to noise at 800 examples") for n in panel.notes)
    row = next(r for r in panel.rows if r.method == "random")
    assert row.rel.columns == BENCHMARKS
    [limited] = panels(rows_of(1))
    row = next(r for r in limited.rows if r.method == "random")
    assert row.rel.columns == ("attributes",)
    assert "below eval.least_signal=1, which was set before" in row.rel.left_out["counting"]
    assert any("Rel. (%) is without counting" in n.text for n in limited.notes)
    mixed = [*rows_of(1)[:-1], rows_of(None)[-1]]
    row = next(r for r in panels(mixed)[0].rows if r.method == "random")
    assert row.rel.columns == BENCHMARKS, "a limit that not all runs were made with is none"


def test_common_numbers_show_as_correlation_over_seeds() -> None:
    assert shared_share([[1.0, 2.0, 3.0], [11.0, 12.0, 13.0]]) == pytest.approx(1.0)
    assert shared_share([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]) == pytest.approx(-1.0)
    assert shared_share([[1.0, 1.0], [1.0, 1.0]]) == 0.0
    rows = [result("full", s, (99.0, 99.0, 99.0), budget=1.0) for s in range(3)]
    for method in ("random", "coincide", "el2n"):
        rows += [result(method, s, (50.0 + s, 50.0, 50.0)) for s in range(3)]
    rows = [replace(r, config={**r.config, "train": {"lr": 1.0, "order": "rows"}}) for r in rows]
    said = [n.text for n in panels(rows)[0].notes if "share the order" in n.text]
    assert len(said) == 1 and "correlate by +1.00" in said[0]


def test_minutes_of_ones_own_take_the_place_of_measured_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shipped = f"noise={power.SHIPPED}"
    assert power.main(["difference=2", "seeds=5", "minutes=6", shipped]) == 0
    assert "5 hours of one process at a time, 6 minutes a run.\n" in capsys.readouterr().out
    assert power.main(["difference=2", shipped]) == 0
    assert "minutes a run, as the measured ones took (minutes= for others)." in (
        capsys.readouterr().out
    )
