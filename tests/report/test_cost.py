"""What is charged, what is shared by how many, and who is on the front."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coincide.ledger.result import Cost, Result
from coincide.report.compare import panels
from coincide.report.cost import charges, pareto_front
from coincide.report.views import cost
from tests.report.fixture import ledger, result

PASS = 1000.0


def costs(method: str, seed: int, *, features: tuple[str, ...], gpus: int = 0) -> tuple[Cost, ...]:
    """Signals of one pass; clusters for coincide alone; a subset of its own for each seed."""
    clusters = [Cost("select", "clusters/k", 20.0, 2000.0)] if method == "coincide" else []
    return (
        Cost("reference", "model/ref", 60.0, 500.0),
        *(
            Cost("features", f"features/{name}", 100.0 + i, PASS + i)
            for i, name in enumerate(features)
        ),
        *clusters,
        Cost("select", f"subset/{method}-{seed}", 4.0, 2100.0 + seed),
        Cost("train", f"adapter/{method}-{seed}", 50.0, 3000.0 + seed, gpus),
        Cost("evaluate", f"eval/a-{method}-{seed}", 8.0, 4000.0 + 100 * seed, gpus),
        Cost("evaluate", f"eval/b-{method}-{seed}", 9.0, 4000.0 + 100 * seed, gpus),
    )


def runs(gpus: int = 0) -> list[list[Result]]:
    coincide = [
        replace(
            result("coincide", s, (1.0,)), costs=costs("coincide", s, features=("act",), gpus=gpus)
        )
        for s in (0, 1)
    ]
    el2n = replace(result("el2n", 0, (1.0,)), costs=costs("el2n", 0, features=("tokens", "last")))
    return [coincide, [el2n]]


def test_each_run_pays_for_all_it_stands_on_once() -> None:
    coincide, el2n = charges(runs(), [r for row in runs() for r in row])
    assert coincide.whole == {
        "reference": 60, "features": 100, "select": 24, "train": 50, "evaluate": 9,
    }  # fmt: skip
    assert el2n.whole["features"] == 101  # two signals of one pass: the longest clock, once
    assert coincide.total(shared=False, gpu=False) == 60 + 100 + 24 + 50


def test_what_is_shared_is_divided_by_those_who_share_it() -> None:
    """Reference and pass by three runs, clusters by two; the signals of one pass are one thing."""
    coincide, el2n = charges(runs(), [r for row in runs() for r in row])
    assert coincide.shared["reference"] == pytest.approx(20)
    assert coincide.shared["features"] == pytest.approx(100 / 3)
    assert coincide.shared["select"] == pytest.approx(10 + 4)
    assert el2n.shared["features"] == pytest.approx(101 / 3)
    assert el2n.shared["train"] == 50


def test_the_same_artifact_built_again_elsewhere_was_paid_twice() -> None:
    here, there = runs()[0]
    moved = [replace(c, started=c.started + 1e6) for c in there.costs]
    both = [here, replace(there, costs=tuple(moved))]
    (charge,) = charges([both], both)
    assert charge.shared["features"] == pytest.approx(100)


def test_gpu_time_counts_each_gpu() -> None:
    coincide, el2n = charges(runs(gpus=4), [r for row in runs(gpus=4) for r in row])
    assert coincide.gpu_whole == {"train": 200, "evaluate": 36}
    assert coincide.total(shared=False, gpu=True) == 200
    assert el2n.total(shared=False, gpu=True) is None


def test_results_of_before_costs_have_their_seconds_and_no_sharing() -> None:
    old = result("random", 0, (1.0,))
    (charge,) = charges([[old]], [old])
    assert charge.whole == old.seconds
    assert charge.total(shared=True, gpu=False) is None


def test_the_front_is_what_nothing_beats() -> None:
    points = [(10.0, 80.0), (20.0, 90.0), (20.0, 85.0), (30.0, 90.0), (40.0, 95.0), (5.0, 80.0)]
    assert pareto_front(points) == [5, 1, 4]


def test_osc_is_time_over_time_at_the_performance_reached() -> None:
    """Full trains 40.5 s in the mean, a subset as long here; features and selection take 34."""
    (panel,) = panels(ledger())
    by_label = {(row.label, row.budget): row for row in panel.rows}
    coincide = by_label[("coincide (released)", 0.2)]
    assert coincide.rel.estimate is not None
    expected = 100 / coincide.rel.estimate.mean * (34 + 40.5) / 40.5
    assert coincide.osc == pytest.approx(expected)
    assert any(note.text.startswith("OSC =") for note in panel.notes)
    table = cost(panel)
    shown = {row["label"]: row["cells"][-1] for row in table["rows"]}
    assert table["head"][-1] == "OSC"
    assert shown["coincide (released), 20%"].text == f"{expected:.2f}"
    assert shown["full, 100%"].text is None or shown["full, 100%"].text == "–"


def test_osc_counts_gpu_time_where_there_is_some_and_wall_clock_elsewhere() -> None:
    full = [replace(r, costs=costs("full", r.seed, features=(), gpus=4)) for r in ledger()[:2]]
    mine = [
        replace(r, costs=costs("coincide", r.seed, features=("act",), gpus=2))
        for r in ledger()[-2:]
    ]
    (panel,) = panels([*full, *mine])
    row = next(row for row in panel.rows if row.method == "coincide")
    assert row.rel.estimate is not None
    assert row.osc == pytest.approx(100 / row.rel.estimate.mean * (60 + 100 + 24 + 100) / 200)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"hardware": {"machine": "x86_64", "gpus": ["H100"]}}, "of different machines"),
        ({"seconds": {"features": 30.0}}, "times of training are not recorded"),
        ({"scores": ()}, "no Rel. (%)"),
    ],
)
def test_osc_is_missing_where_a_part_of_it_is(change: dict[str, object], expected: str) -> None:
    runs = ledger()
    changed = [replace(r, **change) if r.method == "coincide" else r for r in runs]  # type: ignore[arg-type]
    (panel,) = panels(changed)
    row = next(row for row in panel.rows if row.method == "coincide")
    assert row.osc is None
    assert expected in row.why_no_osc
    assert panels(runs[2:])[0].rows[0].osc is None  # no full run
