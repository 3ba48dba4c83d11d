"""VisNec, PRISM, ScalSelect, RDS+ and MAGIC: each against a twin that does it the long way."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from baselines import magic
from baselines.magic import Magic
from baselines.prism import Prism, correlation
from baselines.rds import Rds, best_rows, take_turns, unit
from baselines.scalselect import ScalSelect, leverage
from baselines.visnec import VisNec, best_of_each_cluster, necessity
from coincide.features.signals.clip_text import ClipText
from coincide.features.signals.hidden_weighted import HiddenWeighted
from coincide.features.signals.token_scores import TokenScores
from coincide.features.signals.token_scores_blind import TokenScoresBlind
from coincide.features.signals.visual_attended import VisualAttended
from coincide.features.signals.visual_mean import VisualMean
from coincide.schema import Method, TargetRows, UserError
from tests.baselines.pool import MAGIC, MemoryPool, make_pool

random = np.random.default_rng


def candidates(pool: MemoryPool, *, images: bool = True) -> np.ndarray:
    """Usable rows with an answer and, by default, an image."""
    found = [
        pool.usable[row] and bool(e.turns[1].text) and (bool(e.images) or not images)
        for row, e in enumerate(pool.examples)
    ]
    return np.flatnonzero(found)


# --- visnec ------------------------------------------------------------------------------------


def test_visnec_takes_the_largest_gain_of_each_clusters_share() -> None:
    pool = make_pool()
    method = VisNec(clusters=5, text_only="drop")
    question = pool.signals[ClipText("question")].copy()
    question[::53] = np.nan
    pool.signals = {**pool.signals, ClipText("question"): question}
    found = method.select(pool, 70, 0)
    rows = candidates(pool)
    clusters = pool.clusters(method.needs()[3]).assignment[rows]  # type: ignore[arg-type]
    assert (clusters == -1).any(), "some questions are empty"
    gain = necessity(pool.signal(TokenScoresBlind())[:, 0], pool.signal(TokenScores())[:, 2])
    shares = {c: 70 * n / len(rows) for c, n in Counter(clusters.tolist()).items()}
    taken = Counter(clusters[np.isin(rows, found.rows)].tolist())
    assert sum(taken.values()) == 70
    for cluster, share in shares.items():
        assert abs(taken[cluster] - share) < 1
        mine = rows[clusters == cluster]
        best = mine[np.lexsort((mine, -gain[mine]))][: taken[cluster]]
        assert set(best.tolist()) == set(mine[np.isin(mine, found.rows)].tolist())
    assert found.facts["chosen_below_zero"] == int((gain[found.rows] < 0).sum())


def test_one_cluster_is_a_plain_ranking_and_a_constant_changes_nothing() -> None:
    score = random(0).normal(size=60).astype(np.float32)
    score[[7, 9]] = score[3]
    one = np.zeros(60, int)
    order = np.lexsort((np.arange(60), -score))
    np.testing.assert_array_equal(best_of_each_cluster(score, one, 25), order[:25])
    pool = make_pool()
    more = {s: pool.signals[s] + np.float32(2) for s in (TokenScores(), TokenScoresBlind())}
    moved = replace(pool, signals={**pool.signals, **more})
    ours, theirs = (VisNec(clusters=1).select(p, 50, 0) for p in (pool, moved))
    assert set(ours.rows.tolist()) == set(theirs.rows.tolist())


def test_rows_below_the_minimum_come_only_after_all_others() -> None:
    score = np.array([3, -1, -2, -3, 1, 2, 0, 5], np.float32)
    cluster = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    assert best_of_each_cluster(score, cluster, 4).tolist() == [7, 0, 5, 1]
    assert best_of_each_cluster(score, cluster, 4, minimum=0.0).tolist() == [7, 0, 5, 4]
    assert best_of_each_cluster(score, cluster, 6, minimum=0.0).tolist() == [7, 0, 5, 4, 6, 1]


def test_text_only_rows_score_zero_and_compete_where_they_are_kept() -> None:
    pool = make_pool()
    score = VisNec(clusters=5).score(pool, 0)["score"]
    texts = np.setdiff1d(candidates(pool, images=False), candidates(pool))
    assert (score[texts] == 0).all()
    kept = VisNec(clusters=5, text_only="keep").select(pool, 220, 0)
    assert np.isin(texts, kept.rows).any() and "text_only_at_random" in kept.facts


# --- prism -------------------------------------------------------------------------------------


def test_prism_is_the_mean_of_all_pairs() -> None:
    pool = make_pool()
    rows = candidates(pool)
    x = pool.signal(VisualMean())[rows].astype(np.float64)
    u = x - x.mean(axis=0)
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    expected = [np.mean([u[i] @ u[j] for j in range(len(u)) if j != i]) for i in range(len(u))]
    found = Prism().score(pool, 0)["score"]
    np.testing.assert_allclose(found[rows], expected, atol=1e-7)
    assert np.isnan(np.delete(found, rows)).all()
    chosen = Prism(text_only="drop").select(pool, 40, 0)
    np.testing.assert_array_equal(chosen.rows, rows[np.argsort(found[rows], kind="stable")[:40]])
    assert 0 < chosen.facts["length_of_the_mean_direction"] < 1


def test_copies_of_a_row_raise_its_correlation_and_a_shift_changes_nothing() -> None:
    x = random(1).normal(size=(200, 16)) * random(2).exponential(size=(200, 1))
    before, _ = correlation(x)
    copied, _ = correlation(np.concatenate([x, np.repeat(x[3:4], 60, axis=0)]))
    assert copied[3] - before[3] > 0.02
    np.testing.assert_allclose(correlation(x + 5.0)[0], before, atol=1e-9)
    middle = np.concatenate([x, x.mean(axis=0, keepdims=True)])
    assert correlation(middle)[0][-1] == pytest.approx(0, abs=1e-6), "the mean has no direction"


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_a_pool_of_equal_norms_has_no_ranking_and_is_refused(dtype: type) -> None:
    half = random(3).normal(size=(300, 16))
    half /= np.linalg.norm(half, axis=1, keepdims=True)
    x = (3 + np.concatenate([half, -half])).astype(dtype)
    with pytest.raises(UserError, match=r"600 rows .* no direction to rank by.*method\.layer"):
        correlation(x)


def test_all_text_only_rows_are_kept_within_the_budget_or_it_is_refused() -> None:
    pool = make_pool()
    texts = np.setdiff1d(candidates(pool, images=False), candidates(pool))
    method = Prism(text_only="all")
    found = method.select(pool, 100, 0)
    assert len(set(found.rows.tolist())) == 100 and set(texts) <= set(found.rows.tolist())
    assert found.facts["text_only_kept"] == len(texts) and not method.uses_seed
    with pytest.raises(UserError, match=r"keeps every text-only row, \d+ here.*budget is 5 rows"):
        method.select(pool, 5, 0)


# --- scalselect --------------------------------------------------------------------------------


def test_leverage_is_that_of_the_singular_vectors() -> None:
    x = random(4).normal(size=(300, 20)) * 0.7 ** np.arange(20) + 4
    u, s, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    held = np.cumsum(s**2) / (s**2).sum()
    for energy in (0.5, 0.9, 1.0):
        count = next(i + 1 for i, share in enumerate(held) if share >= energy - 1e-12)
        found, k = leverage(x, energy)
        assert k == count
        np.testing.assert_allclose(found, (u[:, :count] ** 2).sum(axis=1), atol=1e-12)
        assert found.sum() == pytest.approx(count)
    alone = leverage(x, 0.9)[0][0]
    assert leverage(np.concatenate([x, np.repeat(x[:1], 200, 0)]), 0.9)[0][0] < alone
    assert leverage(np.full((9, 3), 7.0), 0.9)[0].tolist() == [0] * 9


def test_scalselect_takes_the_highest_and_ties_the_lowest_row() -> None:
    pool = make_pool()
    rows = candidates(pool)
    x = pool.signal(VisualAttended())[rows].astype(np.float64)
    score = leverage(x, 0.9)[0].astype(np.float32)
    found = ScalSelect(text_only="drop").select(pool, 40, 0)
    np.testing.assert_array_equal(found.rows, rows[np.lexsort((rows, -score))][:40])
    assert found.scores is not None
    np.testing.assert_array_equal(found.scores[rows], score)
    assert found.facts["direction"] == "high"


# --- rds ---------------------------------------------------------------------------------------


def turns_by_hand(cosine: np.ndarray, k: int, rule: str) -> list[int]:
    """``cosine`` [T, n]: every line in turn offers its best row, whole lists held."""
    lines = [np.lexsort((np.arange(len(line)), -line)).tolist() for line in cosine]
    taken: list[int] = []
    while len(taken) < k:
        for line in lines:
            if rule == "next":
                line[:] = [row for row in line if row not in taken]
            if line and (row := line.pop(0)) not in taken and len(taken) < k:
                taken.append(row)
    return taken


@pytest.mark.parametrize("rule", ["lost", "next"])
@pytest.mark.parametrize("by", ["tasks", "queries"])
def test_rds_is_the_turns_done_by_hand(rule: str, by: str) -> None:
    pool = make_pool()
    method = Rds(turns=rule, by=by)  # type: ignore[arg-type]
    rows = candidates(pool, images=False)
    targets = pool.targets(method.needs()[1])  # type: ignore[arg-type]
    x, queries = unit(pool.signal(HiddenWeighted())[rows]), unit(targets.values)
    cosine = (queries @ x.T).astype(np.float32)
    usable = np.flatnonzero(targets.usable)
    tasks = [usable[usable % 2 == task] for task in (0, 1)]
    lines = cosine[usable] if by == "queries" else np.stack([cosine[t].max(0) for t in tasks])
    for k in (1, 30, len(rows)):
        found = method.select(pool, k, 0)
        assert found.rows.tolist() == rows[turns_by_hand(lines, k, rule)].tolist()
    assert found.facts["targets"] == 11 and found.facts["targets_unusable"] == 1
    np.testing.assert_allclose(found.scores[rows], cosine[usable].max(axis=0))  # type: ignore[index]


def test_lists_read_in_blocks_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    x, queries = random(5).normal(size=(500, 8)), unit(random(6).normal(size=(20, 8)))
    x[100:120] = x[7]  # ties
    tasks = np.arange(20) % 7
    whole = best_rows(x, queries, tasks, 60)
    monkeypatch.setattr("baselines.rds.BLOCK", 37)
    np.testing.assert_array_equal(best_rows(x, queries, tasks, 60), whole)


def test_a_query_finds_itself_first_and_equal_queries_alternate() -> None:
    x = random(7).normal(size=(50, 8))
    own = best_rows(x, unit(x[[31, 4]]), np.arange(2), 50)
    assert own[:, 0].tolist() == [31, 4]
    same = best_rows(x, unit(x[[31, 31]]), np.arange(2), 50)
    lost, following = take_turns(same, 6, "lost"), take_turns(same, 6, "next")
    np.testing.assert_array_equal(lost, same[0][:6])
    np.testing.assert_array_equal(following, same[0][:6])
    assert take_turns(same[:, :4], 6, "lost") is None, "more than the lists give"


def test_target_rows_that_are_all_unusable_are_refused() -> None:
    pool = make_pool()
    need, none = Rds().needs()[1], np.zeros(12, bool)
    targets = pool.target_rows[need]  # type: ignore[index]
    pool.target_rows = {need: TargetRows(targets.examples, targets.values, none)}  # type: ignore[dict-item]
    with pytest.raises(UserError, match="none of the 12 target rows is usable"):
        Rds().select(pool, 5, 0)


# --- magic -------------------------------------------------------------------------------------


def magic_by_hand(
    gain: np.ndarray, q: np.ndarray, keys: list[tuple[int, ...]], k: int
) -> tuple[list[int], dict[str, int]]:
    """The paper's six steps, row by row."""
    n = len(gain)
    best = sorted(range(n), key=lambda i: (-q[i], i))
    able = set(sorted(range(n), key=lambda i: (-gain[i], i))[: -(-6 * n // 10)])
    eligible = [i for i in best if i in able]
    short = eligible[: min(2 * k, len(eligible))]
    buckets: dict[tuple[int, ...], list[int]] = {}
    for i in short:
        buckets.setdefault(keys[i], []).append(i)
    mass = {key: sum(np.exp(q[i] / 0.2) for i in mine) for key, mine in buckets.items()}
    share = {key: k * m / sum(mass.values()) for key, m in mass.items()}
    cap = -(-5 * k // 100)
    count = {key: min(len(b), cap, int(share[key])) for key, b in buckets.items()}
    chosen = {i for key, mine in buckets.items() for i in mine[: count[key]]}
    stages = {"quota": len(chosen)}
    numbers = {key: number for number, key in enumerate(sorted(buckets))}
    for key in sorted(buckets, key=lambda key: (-(share[key] % 1), numbers[key])):
        if len(chosen) < k and count[key] < min(len(buckets[key]), cap):
            chosen.add(buckets[key][count[key]])
    stages["leftover"] = len(chosen) - stages["quota"]
    for name, line in (("backfill", short), ("eligible", eligible), ("others", best)):
        more = [i for i in line if i not in chosen][: k - len(chosen)]
        chosen |= set(more)
        stages[name] = len(more)
    return sorted(chosen), stages


@pytest.mark.parametrize("k", [4, 40, 90, 200])
def test_magic_is_the_six_steps_row_by_row(k: int) -> None:
    pool = make_pool()
    method: Magic = replace(MAGIC, text_only="drop")
    rows = candidates(pool)
    bridge, numbers = (pool.signal(need)[:] for need in method.needs()[2:])  # type: ignore[arg-type]
    gain = necessity(pool.signal(TokenScoresBlind())[:, 0], pool.signal(TokenScores())[:, 2])[rows]

    def normal(x: np.ndarray) -> np.ndarray:
        low, middle, high = np.percentile(x, [25, 50, 75])
        return np.clip((x - middle) / (high - low), -3, 3)

    q = (normal(gain.astype(float)) + normal(bridge[rows, 0].astype(float))) / 2
    first, second = numbers[rows, :1].astype(int), np.sort(numbers[rows, 4:6].astype(int), axis=1)
    keys = [tuple(key) for key in np.concatenate([first, second], axis=1).tolist()]
    expected, stages = magic_by_hand(gain, q, keys, k)
    found = method.select(pool, k, 0)
    assert np.sort(found.rows).tolist() == rows[expected].tolist()
    assert found.facts["chosen_by"] == stages
    assert sum(stages.values()) == k and (k < 200 or stages["others"] > 0)


def test_a_signature_is_a_set_in_each_layer() -> None:
    numbers = np.array([[5, 1, 2, 3], [5, 2, 1, 3], [1, 5, 3, 2], [5, 1, 2, 9]], float)
    assert magic.signatures(numbers, (2,), 4).tolist() == [0, 1, 0, 0]
    assert magic.signatures(numbers, (2, 2), 2).tolist() == [0, 2, 0, 1]
    assert magic.signatures(numbers, (1, 1), 2).tolist() == [2, 1, 0, 2], "layer by layer"


def test_gains_that_are_all_alike_do_not_divide_by_zero() -> None:
    assert magic.robust_z(np.full(9, 2.0)).tolist() == [0] * 9
    assert magic.robust_z(np.array([0.0] * 9 + [50])).max() == 3


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: VisNec(image="blank"), "method.image: got 'blank'.*removed, masked"),  # type: ignore[arg-type]
        (lambda: VisNec(clusters=0), "method.clusters: got 0 for visnec"),
        (lambda: VisNec(text_only="all"), "method.text_only: got 'all'.*quota, keep, drop"),
        (lambda: Prism(text_only="keep"), "method.text_only: got 'keep'.*quota, all, drop"),  # type: ignore[arg-type]
        (lambda: ScalSelect(energy=0), "method.energy: got 0.*above 0"),
        (lambda: ScalSelect(threshold=2).needs(), "threshold=2: expected a share"),
        (lambda: Rds(turns="all"), "method.turns: got 'all'.*lost, next"),  # type: ignore[arg-type]
        (
            lambda: Magic(layers=(1, 2)),
            r"method.neurons: got \[1, 1, 2, 3\] for the layers \[1, 2\]",
        ),
        (lambda: Magic(layers=(1,), neurons=(70,)), "each from 1 to method.stored=64"),
    ],
)
def test_bad_fields_of_todays_methods_are_refused(make: type[Method], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        make()
