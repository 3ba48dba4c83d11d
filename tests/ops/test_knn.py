from fractions import Fraction

import numpy as np
import pytest
import torch

from coincide.ops.knn import knn, search
from coincide.ops.knn.distances import nearest_float32, pair_distances
from coincide.ops.knn.screen import Screen


def rows(n, width=7, seed=0):
    return np.random.default_rng(seed).standard_normal((n, width)).astype(np.float16)


def brute_force(x, k, metric):
    """All pairs by differences; sorted by (distance as float32, row)."""
    x = x.astype(np.float64)
    if metric == "cosine":
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    distance = ((x[:, None] - x[None]) ** 2).sum(-1) / (2 if metric == "cosine" else 1)
    np.fill_diagonal(distance, np.inf)
    order = np.argsort(distance.astype(np.float32), axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(distance, order, 1)


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
@pytest.mark.parametrize("n", [2, 50, 700])
def test_equals_brute_force(n, metric):
    x, k = rows(n), min(5, n - 1)
    neighbors, distances = knn(x, k, metric=metric)
    expected, expected_distances = brute_force(x, k, metric)
    assert neighbors.dtype == np.int64 and distances.dtype == np.float32
    np.testing.assert_array_equal(neighbors, expected)
    np.testing.assert_allclose(distances, expected_distances, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("tile_rows", [100, 1500, 3000])
def test_same_bytes_for_every_tile(tile_rows):
    x = rows(2100)
    expected, ours = knn(x, 3), knn(x, 3, tile_rows=tile_rows)
    assert [a.tobytes() for a in ours] == [b.tobytes() for b in expected]


def test_blocks_join_up():
    x = rows(2100, width=3)
    neighbors, _ = knn(x, 2)
    few = np.r_[0:5, 1020:1030, 2040:2060, 2090:2100]
    distance = ((x[few, None].astype(np.float64) - x[None].astype(np.float64)) ** 2).sum(-1)
    distance[np.arange(len(few)), few] = np.inf
    expected = np.argsort(distance.astype(np.float32), axis=1, kind="stable")[:, :2]
    np.testing.assert_array_equal(neighbors[few], expected)


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
def test_equal_rows_are_neighbours_at_zero_lowest_first(metric):
    x = np.repeat(rows(300, width=33), 6, axis=0)
    neighbors, distances = knn(x, 5, metric=metric)
    for row in range(len(x)):
        copies = [r for r in range(row // 6 * 6, row // 6 * 6 + 6) if r != row]
        assert neighbors[row].tolist() == copies
    assert (distances == 0).all()


def test_reads_a_memmap(tmp_path):
    x = rows(100)
    np.save(tmp_path / "x.npy", x)
    ours = knn(np.load(tmp_path / "x.npy", mmap_mode="r"), 4)
    assert [a.tobytes() for a in ours] == [b.tobytes() for b in knn(x, 4)]


def test_refusals():
    x = rows(10)
    with pytest.raises(ValueError, match="k = 10 neighbours for 10 rows"):
        knn(x, 10)
    with pytest.raises(ValueError, match="choices: sqeuclidean, cosine"):
        knn(x, 2, metric="l1")
    x[4] = 0
    assert knn(x, 2)[0].shape == (10, 2)
    with pytest.raises(ValueError, match=r"1 of 10 rows are all zeros .*\[4\]"):
        knn(x, 2, metric="cosine")
    x[7, 0] = np.nan
    with pytest.raises(ValueError, match=r"NaN or Inf: rows \[7\]"):
        knn(x, 2)


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_same_bytes_for_every_number_of_threads(threads, metric):
    x = np.concatenate([rows(3000), rows(300)])
    expected = knn(x, 4, metric=metric, threads=1)
    ours = knn(x, 4, metric=metric, threads=threads, tile_rows=256)
    assert [a.tobytes() for a in ours] == [b.tobytes() for b in expected]


def test_both_rows_of_a_pair_are_told_one_distance():
    x = rows(1500, width=40)
    neighbors, distances = knn(x, 6)
    found = {
        (i, int(j)): d
        for i in range(len(x))
        for j, d in zip(neighbors[i], distances[i], strict=True)
    }
    both = [(d, found[j, i]) for (i, j), d in found.items() if (j, i) in found]
    assert len(both) > 1000 and all(a == b for a, b in both)


def test_more_neighbours_than_a_tile_has_rows():
    x = rows(1100, width=3)
    neighbors, _ = knn(x, 1099)
    assert all(
        sorted([*found, row]) == list(range(1100)) for row, found in enumerate(neighbors[:3])
    )


def clustered(n, width, near=0.3):
    """Heavy-tailed clusters along few directions, with a common offset; copies and near-copies."""
    rng = np.random.default_rng(2)
    share = 1 / np.arange(1, 41)
    centres = rng.standard_normal((40, 6)) @ rng.standard_normal((6, width))
    at = rng.choice(40, n, p=share / share.sum())
    x = 3 + centres[at] + near * rng.standard_normal((n, width))
    x[: n // 10] = x[n // 2] * (1 + 1e-4 * rng.standard_normal((n // 10, width)))
    x[-n // 20 :] = x[0]
    return x.astype(np.float16)


SCREENS = {
    "float64": (10**9, 10**9, None),
    "float32": (0, 10**9, torch.float32),
    "half": (0, 10**9, torch.bfloat16),
    "coarse float32": (0, 0, torch.float32),
    "coarse half": (0, 0, torch.bfloat16),
}


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
@pytest.mark.parametrize("screens", SCREENS)
def test_every_screen_gives_the_neighbours_of_all_pairs(screens, metric, monkeypatch):
    x = clustered(700, 48)
    small, coarse, kind = SCREENS[screens]
    monkeypatch.setattr(search, "_SMALL", small)
    monkeypatch.setattr(search, "_COARSE_ROWS", coarse)
    monkeypatch.setattr(search, "half_type", lambda device: kind)
    monkeypatch.setattr(search, "coarse_width", lambda *_: 25)
    used = []
    limits = Screen.limits
    monkeypatch.setattr(
        Screen,
        "limits",
        lambda self, *a: used.append((self.kind, self.basis is not None)) or limits(self, *a),
    )
    ours, distances = knn(x, 5, metric=metric, tile_rows=128)
    assert ((kind or torch.float64, "coarse" in screens)) in used
    every = np.triu_indices(len(x), 1)
    apart = np.full((len(x), len(x)), np.inf, np.float32)
    apart[every] = pair_distances(x.astype(np.float32), *every, metric)
    apart = np.minimum(apart, apart.T)
    order = np.argsort(apart, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(ours, order)
    np.testing.assert_array_equal(distances, np.take_along_axis(apart, order, 1))


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
def test_rows_of_all_lengths_and_many_that_are_equal(metric):
    rng = np.random.default_rng(4)
    x = rng.standard_normal((600, 9)).astype(np.float32)
    x[:200] *= 10.0 ** rng.uniform(-12, 12, (200, 1)).astype(np.float32)
    x[300:] = x[250] * 2.0 ** (np.arange(300) % 3)[:, None]
    ours, distances = knn(x, 4, metric=metric, tile_rows=64)
    every = np.triu_indices(len(x), 1)
    apart = np.full((len(x), len(x)), np.inf, np.float32)
    apart[every] = pair_distances(x, *every, metric)
    apart = np.minimum(apart, apart.T)
    order = np.argsort(apart, axis=1, kind="stable")[:, :4]
    np.testing.assert_array_equal(ours, order)
    np.testing.assert_array_equal(distances, np.take_along_axis(apart, order, 1))


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
def test_a_distance_is_the_nearest_float32(metric, monkeypatch):
    """Where the sum is sure, integers say the same."""
    from coincide.ops.knn import distances

    x = clustered(60, 33).astype(np.float32)
    pairs = np.triu_indices(60, 1)
    found = pair_distances(x, *pairs, metric)
    exact = [distances._exactly(x[i], x[j], metric) for i, j in zip(*pairs, strict=True)]
    np.testing.assert_array_equal(found, exact)
    monkeypatch.setattr(distances, "_exactly", lambda *_: pytest.fail("one in 100,000 is unsure"))
    pair_distances(rows(60, 33).astype(np.float32), *pairs, metric)


def test_rounding_to_float32_is_to_nearest_and_ties_are_even():
    one, step = Fraction(1), Fraction(1, 2**23)
    assert nearest_float32(one + step / 2) == np.float32(1)
    assert nearest_float32(one + step * 3 / 2) == np.float32(1 + 2 * float(step))
    assert nearest_float32(one + step / 2 + Fraction(1, 2**60)) == np.float32(1 + float(step))
    assert nearest_float32(Fraction(2) ** 128) == np.inf and nearest_float32(Fraction(0)) == 0
