import numpy as np
import pytest
import torch

from coincide.ops.kmeans import clustering_health, spherical_kmeans


def blobs(n=2600, centers=12, width=24, seed=0, noise=0.25):
    """fp16 rows around well separated unit directions, and which direction each is from."""
    random = np.random.default_rng(seed)
    middle = np.linalg.qr(random.standard_normal((width, width)))[0][:centers]
    label = random.integers(0, centers, n)
    x = middle[label] + noise * random.standard_normal((n, width)) / np.sqrt(width)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16), label


def unit(x):
    return x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)


def test_shapes_types_and_nearest_centroid():
    x, _ = blobs()
    centroids, assignment = spherical_kmeans(x, 12, 20, 0)
    assert centroids.dtype == np.float32 and centroids.shape == (12, 24)
    assert assignment.dtype == np.int32 and assignment.shape == (2600,)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-6)
    cosine = unit(x) @ centroids.astype(np.float64).T
    chosen = cosine[np.arange(len(x)), assignment]
    np.testing.assert_allclose(chosen, cosine.max(1), atol=1e-6)


def test_a_converged_clustering_is_a_fixed_point_of_lloyd():
    x, _ = blobs()
    centroids, assignment = spherical_kmeans(x, 12, 200, 0)
    for cluster in range(12):
        mean = unit(x)[assignment == cluster].mean(0)
        np.testing.assert_allclose(centroids[cluster], mean / np.linalg.norm(mean), atol=1e-5)


def test_finds_planted_clusters_from_one_start_in_each():
    x, label = blobs(centers=3)
    _, assignment = min(
        (spherical_kmeans(x, 3, 50, seed) for seed in range(3)),
        key=lambda found: -(unit(x) * found[0][found[1]]).sum(),
    )
    pairs = set(zip(label.tolist(), assignment.tolist(), strict=True))
    assert len(pairs) == 3


def test_same_bytes_for_every_chunk():
    x, _ = blobs()
    expected = spherical_kmeans(x, 40, 15, 3)
    for chunk_rows in (1, 100, 1500, 2048):
        ours = spherical_kmeans(x, 40, 15, 3, chunk_rows=chunk_rows)
        assert [a.tobytes() for a in ours] == [b.tobytes() for b in expected]


def test_same_bytes_from_a_memmap_and_for_every_number_of_threads(tmp_path):
    x, _ = blobs()
    np.save(tmp_path / "x.npy", x)
    expected = spherical_kmeans(x, 40, 15, 3)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        ours = spherical_kmeans(np.load(tmp_path / "x.npy", mmap_mode="r"), 40, 15, 3)
    finally:
        torch.set_num_threads(threads)
    assert [a.tobytes() for a in ours] == [b.tobytes() for b in expected]


def test_the_seed_decides():
    x, _ = blobs()
    first, again, other = (spherical_kmeans(x, 40, 5, seed)[0] for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes() != other.tobytes()


def test_duplicates_neither_collapse_nor_empty_clusters():
    x = np.repeat(blobs(n=20)[0], [200] + [1] * 19, axis=0)
    centroids, assignment = spherical_kmeans(x, 20, 10, 0)
    health = clustering_health(x, centroids, assignment)
    assert health["empty_clusters"] == health["coinciding_centroids"] == 0
    assert health["size_max"] == 200 and health["size_min"] == 1
    assert len(set(assignment[:200].tolist())) == 1


@pytest.mark.parametrize("seed", range(8))
def test_clusters_that_run_empty_are_refilled(seed):
    random = np.random.default_rng(seed)
    tight = np.array([1.0, 0, 0]) + 0.05 * random.standard_normal((300, 3))
    x = np.concatenate([tight, random.standard_normal((10, 3))]).astype(np.float32)
    centroids, assignment = spherical_kmeans(x, 60, 8, seed)
    assert (np.bincount(assignment, minlength=60) > 0).all()
    assert clustering_health(x, centroids, assignment)["coinciding_centroids"] == 0


def test_refilling_takes_the_farthest_rows_and_keeps_the_sums_exact():
    from coincide.ops.kmeans.lloyd import _Lloyd
    from coincide.ops.kmeans.rows import RowBounds

    x = np.array([[1, 0], [1, 0.1], [1, 0.9], [0, 1]], np.float32)
    start = torch.tensor([[1.0, 0], [0, 1], [-1, 0]])
    rows = RowBounds.unknown(0, 4, start.mean(0))
    lloyd = _Lloyd(x, np.arange(4, dtype=np.uint64), rows, start, None, None, 1)
    assert lloyd.assign()
    assert rows.nearest.tolist() == [0, 0, 2, 1]  # row 2 was the farthest from centroid 0
    for cluster in range(3):
        mean = unit(x)[rows.nearest == cluster].sum(0)
        np.testing.assert_allclose(lloyd.sums[cluster].numpy() / 2.0**40, mean, atol=1e-7)


def test_starts_and_refills_take_different_rows_and_leave_no_cluster_empty():
    from coincide.ops.kmeans.lloyd import _initial_rows, _strays

    digests = np.repeat(np.arange(5, dtype=np.uint64), [100, 1, 1, 1, 1])
    for seed in range(5):
        assert set(digests[_initial_rows(digests, 5, seed)].tolist()) == {0, 1, 2, 3, 4}

    copies = np.array([7, 7, 6, 8, 9, 9], np.uint64)  # row 3 is alone in its cluster
    cosine = np.array([0.1, 0.1, 0.6, 0.0, 0.5, 0.9], np.float32)
    assert _strays(np.array([0, 0, 0, 1, 2, 2]), cosine, copies, 2).tolist() == [0, 4]


def test_opposite_rows_do_not_lose_their_centroid():
    x = np.array([[1, 0], [-1, 0]], np.float32)
    centroids, assignment = spherical_kmeans(x, 1, 3, 0)
    assert np.linalg.norm(centroids[0]) == pytest.approx(1) and assignment.tolist() == [0, 0]


def test_every_row_its_own_cluster():
    x, _ = blobs(n=30)
    _, assignment = spherical_kmeans(x, 30, 5, 0)
    assert sorted(assignment.tolist()) == list(range(30))


def test_the_length_of_a_row_does_not_matter():
    x, _ = blobs()
    longer = x.astype(np.float32) * 2.0 ** np.random.default_rng(0).integers(-3, 4, (len(x), 1))
    expected, ours = spherical_kmeans(x, 12, 20, 0), spherical_kmeans(longer, 12, 20, 0)
    assert [a.tobytes() for a in ours] == [b.tobytes() for b in expected]


def test_broken_rows_are_named():
    x, _ = blobs(n=100)
    x[[3, 50], 2] = np.nan
    x[60] = np.inf
    with pytest.raises(ValueError, match=r"3 of 100 rows hold NaN or Inf: rows \[3, 50, 60\]"):
        spherical_kmeans(x, 5, 5, 0)
    x, _ = blobs(n=100)
    x[20:35] = 0
    with pytest.raises(ValueError, match=r"15 of 100 rows are all zeros .*\[20, .* 29\] \.\.\."):
        spherical_kmeans(x, 5, 5, 0)


def test_impossible_requests_are_refused():
    x, _ = blobs(n=100)
    with pytest.raises(ValueError, match="k = 101 clusters for 100 rows"):
        spherical_kmeans(x, 101, 5, 0)
    with pytest.raises(ValueError, match="k = 0"):
        spherical_kmeans(x, 0, 5, 0)
    with pytest.raises(ValueError, match=r"k = 11 .* 10 of them distinct"):
        spherical_kmeans(np.tile(x[:10], (3, 1)), 11, 5, 0)
    with pytest.raises(ValueError, match="all 50 rows are identical"):
        spherical_kmeans(np.tile(x[:1], (50, 1)), 2, 5, 0)
    with pytest.raises(ValueError, match=r"shape \(24,\)"):
        spherical_kmeans(x[0], 2, 5, 0)
    parallel = np.outer(2.0 ** np.arange(4), [1, 1]).astype(np.float32)
    with pytest.raises(ValueError, match="k = 3 clusters, of which 2 stay empty"):
        spherical_kmeans(parallel, 3, 5, 0)


def test_health_counts_what_went_wrong():
    x = np.array([[1, 0], [1, 0], [1, 0], [0, 1], [1, 1]], np.float16)
    centroids = np.array([[1, 0], [0, 1], [1, 0], [1, 0]], np.float32)
    health = clustering_health(x, centroids, np.array([0, 0, 0, 1, -1], np.int32))
    assert health == {
        "clusters": 4,
        "empty_clusters": 2,
        "coinciding_centroids": 2,
        "size_min": 0,
        "size_median": 0.5,
        "size_max": 3,
        "largest_share": 0.75,
        "duplicate_share": 0.5,
    }


def test_health_sees_repeats_across_blocks():
    x = np.random.default_rng(0).standard_normal((2100, 8)).astype(np.float32)
    x[2050] = x[1]
    assert clustering_health(x, x, np.arange(2100))["coinciding_centroids"] == 1
