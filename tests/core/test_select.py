"""What the pipeline guarantees whatever a method returns, and what stops a run before training."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from baselines.uniform import Random
from coincide.config import HealthLimits
from coincide.data.demo import Demo
from coincide.features.signals.hidden_last import HiddenLast
from coincide.schema import Clustering, Example, HealthError, Selection, UserError
from coincide.selection.pool import NeedSteps
from coincide.selection.stage import check_health, fill_to_budget, subset_step

USABLE = np.array([True] * 8 + [False] * 2)


def test_a_shortfall_is_filled_in_the_methods_own_order() -> None:
    selection = Selection(np.array([5, 1]), ranking=np.array([5, 9, 7, 1, 0, 2]))
    rows, added = fill_to_budget(selection, 4, USABLE, "m")
    assert rows.tolist() == [0, 1, 5, 7]
    assert added == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([1, 1], "twice"),
        ([1, 10], "outside 0..9"),
        ([-1], "outside"),
        ([8], "1 unusable"),
        ([0, 1, 2, 3, 4], "5 rows for a budget of 4"),
        ([0, 1], "can give 2 of the 4 examples.*8 of 10 rows are usable"),
    ],
)
def test_anything_else_is_refused(rows: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fill_to_budget(Selection(np.array(rows)), 4, USABLE, "m")


def pool(usable: np.ndarray) -> SimpleNamespace:
    examples = [Example(i, str(i), (), (), "s") for i in range(len(usable))]
    return SimpleNamespace(usable=usable, examples=examples)


def clusters(**facts: object) -> dict[Clustering, SimpleNamespace]:
    sound = {"coinciding_centroids": 0, "largest_share": 0.01, "empty_clusters": 0}
    return {Clustering(HiddenLast(), 100): SimpleNamespace(facts={**sound, **facts})}


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"coinciding_centroids": 2}, "2 of 100 centroids coincide"),
        ({"largest_share": 0.4}, r"holds 40\.0% of the rows \(health\.largest_cluster=0\.05\)"),
        ({"empty_clusters": 30}, "30 of 100 clusters are empty"),
    ],
)
def test_the_gate_closes_on_broken_clusters(facts: dict[str, object], message: str) -> None:
    check_health(pool(USABLE[:8]), clusters(), HealthLimits())  # type: ignore[arg-type]
    with pytest.raises(HealthError, match=message):
        check_health(pool(USABLE[:8]), clusters(**facts), HealthLimits())  # type: ignore[arg-type]


def test_the_gate_closes_on_unusable_rows() -> None:
    with pytest.raises(HealthError, match=r"20\.0% of the rows are unusable"):
        check_health(pool(USABLE), {}, HealthLimits())  # type: ignore[arg-type]


def test_random_is_nested_over_budgets_and_uniform_over_seeds() -> None:
    here = pool(np.array([True] * 45 + [False] * 5))
    method = Random()
    small, large = (method.select(here, k, 3).rows for k in (10, 30))
    assert small.tolist() == large[:10].tolist()
    assert method.select(here, 10, 4).rows.tolist() != small.tolist()
    hits = np.zeros(50)
    for seed in range(400):
        hits[method.select(here, 9, seed).rows] += 1
    assert not hits[45:].any()
    assert abs(hits[:45] / 400 - 0.2).max() < 0.09  # 4.5 standard deviations


def subset_key(budget: float | int, **demo: int) -> str:
    source = Demo(**demo)
    return subset_step(
        Random(), budget=budget, seed=0, source=source, data=source.step(),
        needs=NeedSteps({}, {}, {}), health=HealthLimits(),
    ).key  # fmt: skip


def test_a_fraction_and_the_count_that_it_comes_to_are_one_subset() -> None:
    assert subset_key(0.2) == subset_key(800) == subset_key(0.20001) != subset_key(801)
    assert subset_key(0.29, n=100) == subset_key(29, n=100), "0.29 * 100 is 28.999999999999996"
    with pytest.raises(UserError, match="the pool of 100"):
        subset_key(101, n=100)
