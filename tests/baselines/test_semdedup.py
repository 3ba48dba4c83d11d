"""SemDeDup against the released code's flags (tests/assets/golden) and a brute-force twin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from baselines import semdedup
from baselines.semdedup import SemDeDup, max_similarity, select
from coincide.features.engine.shards import ShardedArray, write_shard
from coincide.ops.clusters import each_cluster
from coincide.schema import Clusters
from tests.baselines.pool import make_pool

GOLDEN = Path(__file__).parents[1] / "assets" / "golden" / "semdedup_N2000_s0.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN))


@pytest.mark.parametrize("keep", ["hard", "easy"])
def test_flags_of_the_released_code(golden: dict[str, np.ndarray], keep: str) -> None:
    order = golden[f"{keep}_order"]
    similarity = max_similarity(golden["emb"], golden["assign"], order)
    for column, epsilon in enumerate(golden["eps_list"]):
        threshold = 1 - epsilon
        removed = similarity[order] > threshold
        differs = removed != golden[f"{keep}_remove"][:, column]
        assert (np.abs(similarity[order][differs] - threshold) < 1e-6).all()


@pytest.mark.parametrize("keep", ["hard", "easy"])
def test_keeping_k_is_a_threshold_of_the_released_rule(
    golden: dict[str, np.ndarray], keep: str
) -> None:
    """For each ε of the golden list, the k that it keeps are the k that we keep."""
    order = golden[f"{keep}_order"]
    ours = select(golden["emb"], golden["assign"], order, len(order))
    for column, k in enumerate(golden[f"{keep}_kept_per_eps"]):
        kept = set(order[~golden[f"{keep}_remove"][:, column]].tolist())
        assert len(kept ^ set(ours[:k].tolist())) <= 2  # a pair at the threshold


def test_cosines_to_the_centroid_are_the_released_ones(golden: dict[str, np.ndarray]) -> None:
    clusters = Clusters(golden["centroids"], golden["assign"])
    cosine = 1 - semdedup.prototype_distance(golden["emb"], clusters)
    np.testing.assert_allclose(cosine, golden["dist_to_cent"], atol=3e-4)  # fp16 lengths there
    hard = SemDeDup(clusters=30)._order(1 - cosine, 0)
    first = {golden["assign"][row]: row for row in hard[::-1]}
    for start in golden["hard_cluster_offsets"][:-1]:
        row = golden["hard_order"][start]
        assert cosine[row] - cosine[first[golden["assign"][row]]] < 3e-4


def brute_force(x: np.ndarray, assignment: np.ndarray, order: np.ndarray) -> np.ndarray:
    unit = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    found = np.full(len(x), np.nan)
    for at, j in enumerate(order):
        before = [i for i in order[:at] if assignment[i] == assignment[j]]
        found[j] = max([0.0, *(float(unit[i] @ unit[j]) for i in before)])
    return found


@pytest.mark.parametrize("block", [3, 1024])
def test_equals_brute_force(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semdedup, "BLOCK", block)
    rng = np.random.default_rng(1)
    x, assignment = rng.normal(size=(200, 8)), rng.integers(-1, 5, 200)
    order = rng.permutation(200)[:180]
    ours = max_similarity(x, assignment, order, lengths="exact")
    expected = brute_force(x, assignment, order)
    expected[assignment == -1] = np.nan
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    assert ours.dtype == np.float32


@pytest.mark.parametrize("lengths", ["half", "exact"])
@pytest.mark.parametrize("threads", [1, 3])
def test_blocks_threads_and_shards_do_not_show(
    lengths: str, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(2)
    x, assignment = rng.normal(size=(300, 8)).astype(np.float16), rng.integers(-1, 4, 300)
    x[200:250] = x[:50]
    order = rng.permutation(300)
    expected = max_similarity(x, assignment, order, lengths=lengths)  # type: ignore[arg-type]
    for index, part in enumerate(np.array_split(x, 12)):
        write_shard(tmp_path, index, part, np.ones(len(part), bool))
    monkeypatch.setitem(each_cluster.__kwdefaults__, "block_bytes", 20 * 8 * 2)
    monkeypatch.setitem(each_cluster.__kwdefaults__, "threads", threads)
    ours = max_similarity(ShardedArray(tmp_path), assignment, order, lengths=lengths)  # type: ignore[arg-type]
    assert ours.tobytes() == expected.tobytes()


def test_exact_duplicates_go_before_anything_else() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 6)).astype(np.float16)
    x[40:] = x[:20]
    x[20:30] = x[:10] + np.float16(0.01)  # close, not equal
    kept = select(x, np.zeros(60, int), rng.permutation(60), 40)
    assert len(np.unique(x[kept], axis=0)) == 40


def test_kept_sets_are_nested() -> None:
    pool = make_pool()
    method = SemDeDup(clusters=8)
    small, large = (set(method.select(pool, k, 0).rows.tolist()) for k in (40, 120))
    assert small < large


def test_the_epsilon_in_the_facts_keeps_what_was_kept() -> None:
    found = SemDeDup(clusters=8).select(make_pool(), 100, 0)
    assert found.scores is not None
    kept = np.flatnonzero(found.scores <= 1 - found.facts["epsilon"] + 1e-7)
    assert set(found.rows.tolist()) <= set(kept.tolist())
    assert len(kept) - 100 <= (found.scores == found.scores[found.rows[-1]]).sum()


def test_keep_decides_who_stays_in_a_group_of_likes() -> None:
    angles = np.radians([[2, 2.2, 2.4, 40, 40.2], [91, 91.1, 91.3, 60, 60.1]]).ravel()
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    pool = make_pool(10)
    pool.usable[:] = True
    pool.signals = {semdedup.HiddenLast(): x}
    needs = SemDeDup(clusters=2).needs()
    centroids = np.array([[1, 0], [0, 1]], dtype=np.float32)
    pool.found = {needs[1]: Clusters(centroids, np.repeat([0, 1], 5).astype(np.int32))}  # type: ignore[dict-item, index]
    pool.examples = make_pool(20).examples[10:]  # all have an answer
    kept = {
        keep: sorted(SemDeDup(clusters=2, keep=keep).select(pool, 4, 0).rows.tolist())  # type: ignore[arg-type]
        for keep in ("hard", "easy")
    }
    assert kept == {"hard": [2, 4, 7, 8], "easy": [0, 3, 5, 9]}


def test_a_random_order_is_drawn_by_the_seed() -> None:
    pool, random = make_pool(), SemDeDup(clusters=8, keep="random")
    assert random.uses_seed
    assert set(random.select(pool, 60, 0).rows) != set(random.select(pool, 60, 1).rows)
