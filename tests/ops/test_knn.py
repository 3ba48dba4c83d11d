import numpy as np
import pytest

from coincide.ops.knn import knn


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


@pytest.mark.parametrize("chunk_rows", [1, 1500, 10_000])
def test_same_bytes_for_every_chunk(chunk_rows):
    x = rows(2100)  # three tiles, the last one padded
    expected, ours = knn(x, 3), knn(x, 3, chunk_rows=chunk_rows)
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
    ours = knn(x, 4, metric=metric, threads=threads, chunk_rows=1)
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
