"""Methods that select by gradients, against plain twins; and the traps of their specifications."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from baselines.icons import Icons, count_votes
from baselines.influence import influences, task_means
from baselines.less import Less, Representatives, clustering
from baselines.mix_to_max import MixToMax, net_influence
from baselines.tive import Balanced, Tive, mean_cosines
from baselines.xmas import Xmas, by_turns
from coincide.schema import AdaptedSignal, Pool, Targets, TunedSignal, UserError
from tests.baselines.pool import make_pool, unit
from train.recipe import Recipe
from train.warmup import recipe_of


def test_a_pool_that_is_its_own_target_set_finds_every_row_again() -> None:
    """Orthogonal gradients, a task each: a task's only vote is for its own row."""
    pool, method = make_pool(40), Icons(vote=1 / 40)
    rows, targets = method.needs()
    assert isinstance(targets, Targets)
    own = np.eye(40, dtype=np.float16)
    examples = [replace(e, source=f"task{e.row:02d}") for e in pool.examples[:12]]
    found = replace(pool.targets(targets), examples=examples, values=own[5:17],
                    usable=np.ones(12, bool))  # fmt: skip
    pool = replace(pool, signals={rows: own}, target_rows={targets: found},
                   usable=np.ones(40, bool))  # fmt: skip
    able = [row for row in range(5, 17) if pool.examples[row].turns[1].text]
    assert sorted(method.select(pool, len(able), 0).rows.tolist()) == able


def twin_of_icons(pool: Pool, method: Icons, k: int) -> list[int]:
    """Every product by itself; votes and percentile ranks by counting."""
    rows, targets = method.needs()
    x = np.asarray(pool.signal(rows), np.float64)  # type: ignore[arg-type]
    found = pool.targets(targets)  # type: ignore[arg-type]
    able = [r for r in np.flatnonzero(pool.usable).tolist() if pool.examples[r].turns[1].text]
    names = sorted({e.source for e, u in zip(found.examples, found.usable, strict=True) if u})
    votes: Counter[int] = Counter()
    ranks: Counter[int] = Counter()
    mean: Counter[int] = Counter()
    for name in names:
        mine = [i for i, e in enumerate(found.examples) if e.source == name and found.usable[i]]
        score = {r: np.mean([x[r] @ found.values[i].astype(np.float64) for i in mine])
                 for r in able}  # fmt: skip
        part = method.vote or k / len(able)
        least = np.percentile(list(score.values()), 100 * (1 - part))
        for r in able:
            votes[r] += int(score[r] >= least)
            below = sum(s < score[r] for s in score.values())
            same = sum(s == score[r] for s in score.values())
            ranks[r] += (below + (same + 1) / 2) / len(able)  # type: ignore[assignment]
            mean[r] += score[r] / len(names)
    return sorted(able, key=lambda r: (-votes[r], -round(ranks[r], 9), -mean[r], r))[:k]


@pytest.mark.parametrize("method", [Icons(), Icons(vote=0.35)], ids=repr)
@pytest.mark.parametrize("k", [7, 60])
def test_icons_is_what_its_specification_says(method: Icons, k: int) -> None:
    pool = make_pool()
    assert set(method.select(pool, k, 0).rows.tolist()) == set(twin_of_icons(pool, method, k))


def test_votes_and_budget_are_two_settings() -> None:
    pool = make_pool()
    facts = [Icons(vote=v).select(pool, 60, 0).facts for v in (None, 0.05)]
    assert facts[0]["vote"] == pytest.approx(60 / facts[0]["candidates"])
    assert facts[1]["vote"] == 0.05
    assert sum(n * v for v, n in enumerate(facts[1]["votes"])) < 0.3 * sum(
        n * v for v, n in enumerate(facts[0]["votes"])
    )


def test_a_row_that_helps_a_task_more_never_loses_its_vote() -> None:
    influence = np.random.default_rng(0).normal(size=(50, 3))
    before, _ = count_votes(influence, 0.2)
    for row in range(50):
        raised = influence.copy()
        raised[row, 1] += 1.0
        assert count_votes(raised, 0.2)[0][row] >= before[row]


def test_of_one_task_the_rows_of_largest_influence_are_taken() -> None:
    pool, method = make_pool(), Icons()
    _, targets = method.needs()
    found = pool.targets(targets)  # type: ignore[arg-type]
    one = replace(found, examples=[replace(e, source="one") for e in found.examples])
    pool = replace(pool, target_rows={targets: one})  # type: ignore[dict-item]
    chosen = method.select(pool, 50, 0)
    scores = method.score(pool, 0)["influence"][:, 0]
    able = [r for r in np.flatnonzero(pool.usable) if pool.examples[r].turns[1].text]
    assert set(chosen.rows.tolist()) == set(sorted(able, key=lambda r: -scores[r])[:50])


def test_a_task_with_subtasks_counts_a_row_by_the_best_of_them() -> None:
    pool, method = make_pool(), Icons()
    rows, targets = method.needs()
    found = pool.targets(targets)  # type: ignore[arg-type]
    parts = [replace(e, source=f"mme/{i % 3}") for i, e in enumerate(found.examples)]
    split = replace(found, examples=parts)
    names, means, tasks = task_means(split, "icons")
    assert names == ["mme"] and len(means) == 3 and tasks.tolist() == [0, 0, 0]
    x = np.asarray(pool.signal(rows), np.float64)  # type: ignore[arg-type]
    place = np.arange(20)
    each = [
        np.mean([x[:20] @ found.values[i].astype(np.float64) for i in range(12)
                 if i % 3 == p and found.usable[i]], axis=0)
        for p in range(3)
    ]  # fmt: skip
    np.testing.assert_allclose(influences(x, place, means, tasks)[:, 0], np.max(each, axis=0),
                               atol=1e-9)  # fmt: skip


def test_target_rows_without_a_gradient_are_refused_by_name() -> None:
    pool, method = make_pool(), Icons()
    _, targets = method.needs()
    none = replace(pool.targets(targets), usable=np.zeros(12, bool))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="none of the 12 target rows has a gradient"):
        method.select(replace(pool, target_rows={targets: none}), 10, 0)  # type: ignore[dict-item]


def test_less_weighs_checkpoints_by_their_rates_and_takes_the_largest_over_tasks() -> None:
    pool, method = make_pool(), Less()
    _, *signals = method.needs()
    rates = np.array([1.0, 1 / 2, 1 / 3, 1 / 4])
    rates /= rates.sum()
    total = np.zeros((300, 2))
    for c in range(4):
        x = np.asarray(pool.signal(signals[c]), np.float64)  # type: ignore[arg-type]
        found = pool.targets(signals[4 + c])  # type: ignore[arg-type]
        for task in range(2):
            mine = [i for i in range(12) if i % 2 == task and found.usable[i]]
            total[:, task] += rates[c] * np.mean(
                [x @ found.values[i].astype(np.float64) for i in mine], axis=0
            )
    best = total.max(axis=1)
    able = [r for r in np.flatnonzero(pool.usable) if pool.examples[r].turns[1].text]
    expected = sorted(able, key=lambda r: (-np.float32(best[r]), r))[:60]
    assert set(method.select(pool, 60, 0).rows.tolist()) == set(expected)
    assert [s.kind for s in signals[:4]] == ["adam"] * 4  # type: ignore[union-attr]
    assert [t.signal.kind for t in signals[4:]] == ["sgd"] * 4  # type: ignore[union-attr]


def test_rows_of_a_cluster_count_as_its_representatives_do() -> None:
    method = Less(at=(0.05,), gradients_of="representatives", clusters=6, representatives=3)
    pool = make_pool()
    _, _, tuned, targets = method.needs()
    assert isinstance(tuned, TunedSignal) and isinstance(tuned.subset.method, Representatives)
    chosen = tuned.subset.method.select(pool, 300, 0).rows
    assignment = pool.clusters(clustering(6)).assignment
    assert set(Counter(assignment[chosen].tolist()).values()) == {3}
    plain = Less()
    values = np.full((300, 16), np.nan, np.float16)
    source = plain.needs()[1]
    values[chosen] = pool.signal(source)[chosen]  # type: ignore[arg-type]
    pool = replace(pool, tuned_signals={tuned: values},
                   target_rows={targets: pool.targets(plain.needs()[5])})  # type: ignore  # fmt: skip
    influence = method.score(pool, 0)["influence"]
    _, means, _ = task_means(pool.targets(targets), "less")  # type: ignore[arg-type]
    for cluster in range(6):
        mine = np.flatnonzero((assignment == cluster) & pool.usable)
        few = np.intersect1d(mine, chosen)
        expected = (values[few].astype(np.float64) @ means.T).mean(axis=0)
        np.testing.assert_allclose(influence[mine], np.broadcast_to(expected, (len(mine), 2)))
    assert len(method.select(pool, 50, 0).rows) == 50


def test_tive_gives_sources_by_the_length_of_their_gradients_whatever_their_size() -> None:
    pool, method = make_pool(), Tive()
    length, _ = method.needs()
    values = np.asarray(pool.signal(length), np.float64)  # type: ignore[arg-type]
    found = method.select(pool, 80, 3)
    table = found.tables["sources"]
    assert sum(table["quota"]) == 80 == len(set(found.rows.tolist()))
    weights = np.array(table["weight"])
    np.testing.assert_allclose(np.array(table["quota"]) / 80, weights / weights.sum(), atol=0.02)
    able = [r for r in np.flatnonzero(pool.usable) if pool.examples[r].turns[1].text]
    for name, weight in zip(table["source"], weights, strict=True):
        mine = [values[r, 0] for r in able if pool.examples[r].source == name]
        assert weight == pytest.approx(np.mean(mine))
    assert found.facts["largest_probability_over_smallest"] < 1.002


def test_tive_with_a_sharp_softmax_takes_the_most_typical_rows_and_none_twice() -> None:
    pool = make_pool()
    method = Tive(sharpness=1e6)
    found, value = method.select(pool, 80, 3), method.score(pool, 3)["score"]
    for name, quota in zip(*(found.tables["sources"][c] for c in ("source", "quota")), strict=True):
        mine = [r for r in found.rows.tolist() if pool.examples[r].source == name]
        rest = [r for r in np.flatnonzero(pool.usable) if pool.examples[r].source == name
                and r not in mine and pool.examples[r].turns[1].text]  # fmt: skip
        assert len(mine) == quota
        assert min(value[mine]) >= max(value[rest]) - 1e-6
    with pytest.raises(UserError, match="without"):
        Tive(without=["nowhere"]).select(pool, 10, 0)
    left = Tive(without=["s1"]).select(pool, 60, 0)
    assert all(pool.examples[r].source != "s1" for r in left.rows.tolist())


def test_mean_cosines_take_one_product_a_row() -> None:
    x = unit(np.random.default_rng(1).normal(size=(40, 6))).astype(np.float64)
    group = np.array([0] * 25 + [1] * 14 + [2])
    found = mean_cosines(x, np.arange(40), group, 3)
    for row in range(39):
        others = [x[row] @ x[o] for o in range(40) if o != row and group[o] == group[row]]
        assert found[row] == pytest.approx(np.mean(others))
    assert found[39] == 0


def test_a_balanced_warm_up_has_as_many_rows_of_each_source() -> None:
    pool = make_pool()
    rows = Balanced().select(pool, 40, 0).rows
    assert set(Counter(pool.examples[r].source for r in rows.tolist()).values()) == {10}


def test_what_sources_give_each_other_is_measured_by_their_own_steps() -> None:
    gradients = np.array([[2.0, 0.0], [2.0, 0.0], [1.0, 1.0], [0.0, -1.0]])
    net, influence = net_influence(gradients, np.array([0, 0, 1, 2]), 4)
    assert influence[0, 1] == pytest.approx(2.0 / 2.0) and influence[1, 0] == pytest.approx(0.5)
    assert influence[1, 2] == pytest.approx(-1.0) and influence[2, 1] == pytest.approx(-0.5)
    assert net[0] == pytest.approx(((1.0 - 0.5) + 0.0) / 2) and net[3] == 0.0
    assert net.sum() == pytest.approx(0.0)


def test_mix_to_max_draws_at_random_inside_and_nested_over_budgets() -> None:
    pool = make_pool()
    small, large = (MixToMax().select(pool, k, 1) for k in (40, 120))
    quota = small.tables["sources"]["quota"]
    weight = np.array(small.tables["sources"]["weight"])
    assert sum(quota) == 40
    np.testing.assert_allclose(np.array(quota) / 40, weight, atol=0.03)
    assert set(small.rows.tolist()) < set(large.rows.tolist())
    sharp = MixToMax(temperature=0.01).select(pool, 40, 1).tables["sources"]
    assert int(np.argmax(sharp["quota"])) == int(np.argmax(sharp["net"]))


def test_xmas_visits_small_clusters_first_and_meets_every_budget() -> None:
    cluster = np.array([0] * 2 + [1] * 3 + [2] * 10)
    turn = np.array([0.1, 0.2, 0.9, 0.5, 0.7, *np.linspace(1, 0, 10)])
    found = by_turns(cluster, turn, 7)
    # cluster 1: 7 // 3; cluster 2: 5 // 2; the pair comes last and gives what is left, both
    assert found[:2].tolist() == [3, 4] and found[2:4].tolist() == [14, 13]
    assert sorted(found[4:6].tolist()) == [0, 1] and len(set(found.tolist())) == 7
    for k in range(16):
        assert len(set(by_turns(cluster, turn, k).tolist())) == k
    assert len(by_turns(cluster, turn, 99)) == 15


def test_xmas_takes_the_most_stable_rows_and_draws_those_without_a_picture() -> None:
    pool = make_pool()
    method = Xmas(layers=(0,), at=(0.5, 1.0), clusters=5, least_rows=30)
    rng = np.random.default_rng(0)
    blind = np.array([not e.images for e in pool.examples])
    values = [np.where(blind[:, None], np.nan, rng.random((300, 5))) for _ in range(2)]
    pool = replace(pool, signals=dict(zip(method.needs(), values, strict=True)))  # type: ignore[arg-type]
    found = method.select(pool, 100, 1)
    assert len(set(found.rows.tolist())) == 100
    scored = method.score(pool, 1)
    expected = np.abs(values[1].sum(axis=1) - values[0].sum(axis=1))
    np.testing.assert_allclose(scored["score"][~blind & pool.usable],
                               expected[~blind & pool.usable], rtol=1e-5)  # fmt: skip
    for number in range(5):
        mine = np.flatnonzero(scored["cluster"] == number)
        able = [r for r in mine if pool.examples[r].turns[1].text]
        taken = [r for r in able if r in set(found.rows.tolist())]
        rest = [r for r in able if r not in taken]
        if taken and rest:
            assert max(scored["score"][taken]) <= min(scored["score"][rest])
    texts = {r for r in found.rows.tolist() if blind[r]}
    assert texts and texts != {r for r in method.select(pool, 100, 2).rows.tolist() if blind[r]}
    assert not any(blind[r] for r in replace(method, text_only="drop").select(pool, 50, 1).rows)


def test_whose_gradients_are_read_is_what_the_specifications_name() -> None:
    """LESS and TIVE: the attention's alone; ICONS: every layer's. A recipe of one's own decides."""
    for method, linears in ((Less(), "attention"), (Tive(), "attention"), (Icons(), "all")):
        (warmed,) = {n.adapter for n in method.needs() if isinstance(n, AdaptedSignal)}
        assert recipe_of(warmed, Recipe()).linears == linears
    own = Tive(recipe={"linears": "all"}).needs()[0]
    assert isinstance(own, AdaptedSignal)
    assert recipe_of(own.adapter, Recipe()).linears == "all"
