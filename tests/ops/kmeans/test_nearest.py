"""The pruned search against plain Lloyd, byte for byte; ranks; what is read; what is told."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from coincide.features.engine.shards import ShardedArray, write_shard
from coincide.ops.arrays import TILE, row_digests, tiles
from coincide.ops.kmeans import blocks, kmeans_on, nearest, search, spherical_kmeans, units
from coincide.ops.kmeans.lloyd import _initial_rows
from coincide.ops.kmeans.sums import UNIT, add_rows
from coincide.ops.kmeans.units import plain_nearest


@pytest.fixture(autouse=True)
def always_pruned(monkeypatch):
    """Small problems are searched as large ones are."""
    monkeypatch.setattr(nearest, "_SMALL", 0)
    monkeypatch.setattr(search, "_LENGTHS", 0)
    monkeypatch.setattr(search, "_LARGE", 0)


def features(n, width, *, common=1.0, noise=1.0, seed=0):
    """fp16 rows [n, width] as models give them: a common direction, topics of very unlike sizes."""
    random = np.random.default_rng(seed)
    topics = max(n // 40, 4)
    weight = 1 / (np.arange(topics) + topics / 100)
    topic = random.choice(topics, n, p=weight / weight.sum())
    scale = (1 + np.arange(width) / 16) ** -0.5
    parts = [random.standard_normal((m, width)) * scale for m in (1, topics, n)]
    x = common * parts[0] + parts[1][topic] + noise * parts[2]
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)


def parallel(n, width, seed=0):
    """Different rows of which many have one direction: clusters that start from two run empty."""
    random = np.random.default_rng(seed)
    rows = features(n // 3, width, seed=seed).astype(np.float32)
    return rows[random.integers(0, len(rows), n)] * 2.0 ** random.integers(-3, 4, (n, 1))


def lloyd(x, k, iterations, seed, refilled=None):
    """Plain spherical k-means: the product of every tile of rows and all centroids, each time."""
    centroids = normalize(torch.from_numpy(x[_initial_rows(row_digests(x), k, seed)]).float())
    previous = np.empty(0)
    for _ in range(iterations):
        assignment, cosine = products(x, centroids)
        unit = torch.cat([normalize(tile) for _, tile in tiles(x)])[: len(x)]
        pairs = refill(assignment, cosine, x, k)
        if refilled is not None:
            refilled += pairs
        sums = torch.zeros(centroids.shape, dtype=torch.int64)
        sums.index_add_(0, torch.from_numpy(assignment), (unit * 2.0**40).long())
        if np.array_equal(assignment, previous):
            break
        kept = (sums != 0).any(1, keepdim=True)
        centroids = torch.where(kept, normalize(sums.double()), centroids.double()).float()
        previous = assignment
    for _ in range(20):
        assignment, cosine = products(x, centroids)
        restarted = refill(assignment.copy(), cosine, x, k)
        if not restarted:
            break
        for row, cluster in restarted:
            centroids[cluster] = normalize(torch.from_numpy(x[row : row + 1]).float())[0]
    return centroids.numpy(), assignment.astype(np.int32)


def products(x, centroids):
    found = [(normalize(tile) @ centroids.T).max(1) for _, tile in tiles(x)]
    best, nearest = (torch.cat([part[i] for part in found]).numpy()[: len(x)] for i in (0, 1))
    return nearest.copy(), best


def refill(assignment, cosine, x, k):
    """The rows of least cosine, no content twice, into the empty clusters, as pairs."""
    size = np.bincount(assignment, minlength=k)
    empty = list(np.flatnonzero(size == 0))
    digests, taken, pairs = row_digests(x), set(), []
    for row in np.argsort(cosine, kind="stable") if empty else ():
        if len(pairs) < len(empty) and size[assignment[row]] > 1 and digests[row] not in taken:
            size[assignment[row]] -= 1
            taken.add(digests[row])
            pairs.append((row, empty[len(pairs)]))
    for row, cluster in pairs:
        assignment[row] = cluster
    return pairs


def same(ours, expected):
    return [a.tobytes() for a in ours] == [b.tobytes() for b in expected]


@pytest.mark.parametrize("half", ["own", torch.float16, torch.float32])
@pytest.mark.parametrize(
    ("n", "width", "k", "common", "noise"),
    [
        (2600, 24, 40, 1.0, 1.0),
        (2500, 64, 200, 4.0, 2.0),  # cosines of 0.9 between any two
        (3000, 8, 50, 0.0, 3.0),  # no clusters
        (3000, 3, 200, 1.0, 1.0),
        (2100, 256, 300, 2.0, 0.02),  # many centroids in one point: float32 cannot tell
        (1500, 300, 1, 1.0, 1.0),
        (1030, 40, 1000, 1.0, 1.0),
    ],
)
def test_the_same_bytes_as_plain_lloyd(monkeypatch, n, width, k, common, noise, half):
    if half != "own":
        for module in (blocks, search):
            monkeypatch.setattr(module, "half_type", lambda device: half)
    x = features(n, width, common=common, noise=noise, seed=n)
    assert same(spherical_kmeans(x, k, 12, 1), lloyd(x, k, 12, 1))


@pytest.mark.parametrize("seed", range(6))
def test_the_same_bytes_on_a_grid_where_cosines_tie(seed):
    x = np.random.default_rng(seed).integers(-2, 3, (1500, 4)).astype(np.float32)
    x = x[np.abs(x).sum(1) > 0]
    unlike = len(np.unique((x / np.linalg.norm(x, axis=1, keepdims=True)).round(4), axis=0))
    assert same(spherical_kmeans(x, unlike // 3, 10, seed), lloyd(x, unlike // 3, 10, seed))


@pytest.mark.parametrize("seed", range(4))
def test_the_same_bytes_where_clusters_run_empty(seed):
    x, refilled = parallel(1300, 12, seed), []
    expected = lloyd(x, 200, 8, seed, refilled)
    assert refilled
    assert same(spherical_kmeans(x, 200, 8, seed), expected)


def test_large_and_small_problems_are_one_function(monkeypatch):
    x = features(2600, 24)
    pruned = spherical_kmeans(x, 40, 10, 1)
    monkeypatch.setattr(nearest, "_SMALL", 2**40)
    assert same(spherical_kmeans(x, 40, 10, 1), pruned)


def test_same_bytes_for_every_block_and_number_of_threads():
    x = features(3000, 24)
    expected = spherical_kmeans(x, 100, 6, 1)
    threads = torch.get_num_threads()
    try:
        for count, chunk_rows in ((1, 1), (2, 2048), (1, 3000)):
            torch.set_num_threads(count)
            assert same(spherical_kmeans(x, 100, 6, 1, chunk_rows=chunk_rows), expected)
    finally:
        torch.set_num_threads(threads)


def test_same_bytes_from_one_array_and_from_shards(tmp_path):
    x = features(3000, 24)
    np.save(tmp_path / "x.npy", x)
    expected = spherical_kmeans(x, 100, 6, 1)
    assert same(spherical_kmeans(np.load(tmp_path / "x.npy", mmap_mode="r"), 100, 6, 1), expected)
    for shards in (1, 12):
        folder = tmp_path / str(shards)
        folder.mkdir()
        for i, part in enumerate(np.array_split(x, shards)):
            write_shard(folder, i, part, np.ones(len(part), bool))
        assert same(spherical_kmeans(ShardedArray(folder), 100, 6, 1), expected)


def test_rows_held_and_rows_read_again_give_the_same_bytes(monkeypatch):
    x = features(3000, 24)
    expected = spherical_kmeans(x, 100, 6, 1)
    monkeypatch.setattr(blocks, "HELD_BYTES", 0)
    assert same(spherical_kmeans(x, 100, 6, 1, chunk_rows=1024), expected)
    monkeypatch.setattr(search, "_TIGHTEN", 0)
    assert same(spherical_kmeans(x, 100, 6, 1), expected)


def test_sums_are_those_of_integers_however_many_rows_a_cluster_has():
    random = np.random.default_rng(0)
    unit = normalize(torch.from_numpy(random.standard_normal((9000, 3))).float())
    unit[:, 0] = 1  # the largest number there is
    after, before = np.zeros(9000, np.int64), random.integers(-1, 3, 9000)
    sums = torch.zeros(4, 3, dtype=torch.int64)
    add_rows(sums, unit, np.arange(9000), after, before, units.BufferPool(sums.device))
    fixed, expected = (unit * UNIT).long(), torch.zeros(4, 3, dtype=torch.int64)
    expected[0] = fixed.sum(0)
    for cluster in range(3):
        expected[cluster] -= fixed[before == cluster].sum(0)
    assert torch.equal(sums, expected)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_own_products_and_a_bound_on_the_others_are_found(kind):
    values = [[1.0, 3, 2.5, 2], [1, 3, 2.5, 2], [4, -1, -2, -3], [-4, -1, -2, -3], [1, 3, 2.5, 2]]
    products = search.comparable(torch.tensor(values, dtype=kind))
    place = torch.tensor([1, 2, 0, 1, -1])
    outside = torch.tensor([False, False, False, False, False])
    own, rest = search.take_own(products, place, outside)
    assert own.tolist() == [3, 2.5, 4, -1, 3]
    assert place[4] == 1
    assert rest[[0, 1, 4]].tolist() == [2.5, 3, 2.5]
    assert all(rest[[2, 3]] >= torch.tensor([-1.0, -2.0]))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_no_product_that_reaches_its_limit_is_left_out(kind):
    random = np.random.default_rng(0)
    values = torch.from_numpy(random.standard_normal((200, 50))).to(kind)
    cut = torch.from_numpy(random.standard_normal(200)).float()
    products = search.comparable(values)
    limit, unlimited = search.limits(cut, products.dtype)
    row, column = search.places_of(products >= limit[:, None])
    listed = torch.zeros(values.shape, dtype=torch.bool)
    listed[row, column] = True
    reaches = values.float() >= cut[:, None]
    assert (listed | unlimited[:, None])[reaches].all()
    assert listed[~unlimited].sum() < 1.1 * reaches[~unlimited].sum()


@pytest.fixture
def in_shards(tmp_path):
    """Write rows as shards."""

    def write(x):
        for i, part in enumerate(np.array_split(x, 3)):
            write_shard(tmp_path, i, part, np.ones(len(part), bool))
        return ShardedArray(tmp_path)

    return write


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(
    ("x", "k"),
    [(features(2600, 400), 700), (parallel(2600, 12), 400)],  # pruned by its size; runs empty
    ids=["pruned", "empty"],
)
def test_same_bytes_for_every_number_of_processes(in_shards, count, x, k):
    expected = spherical_kmeans(x, k, 6, 1)
    assert same(kmeans_on(["cpu"] * count, in_shards(x), k, 6, 1), expected)


def test_broken_rows_are_refused_through_processes(in_shards):
    x = features(2600, 12)
    x[2500] = np.nan
    with pytest.raises(ValueError, match=r"1 of 2600 rows hold NaN or Inf: rows \[2500\]"):
        kmeans_on(["cpu"] * 2, in_shards(x), 20, 3, 1)


def test_a_row_of_the_plain_product_does_not_depend_on_its_place(monkeypatch):
    random = torch.Generator().manual_seed(0)
    unit = normalize(torch.randn(1500, 300, generator=random))
    centroids = normalize(torch.randn(700, 300, generator=random))
    order = torch.randperm(len(unit), generator=random)
    cosine, nearest = plain_nearest(unit, centroids)
    moved = plain_nearest(unit[order], centroids)
    assert torch.equal(moved[0], cosine[order]) and torch.equal(moved[1], nearest[order])
    for keep_places in (False, True):
        parts = units._into_tiles(order.numpy(), keep_places=keep_places)
        monkeypatch.setattr(units, "_into_tiles", lambda *_, p=list(parts), **__: p)
        found = units.gathered_nearest(unit[order], order.numpy(), centroids)
        assert torch.equal(found, nearest[order])
        monkeypatch.undo()
    alone = plain_nearest(unit[7:8], centroids)
    assert torch.equal(alone[0], cosine[7:8])


def test_fewer_and_fewer_distances_are_computed(monkeypatch):
    monkeypatch.setattr(search, "_TIGHTEN", 0)
    x, told = features(6000, 64), []
    spherical_kmeans(x, 300, 12, 1, on_iteration=told.append)
    share = [one.cosines / (len(x) * 300) for one in told]
    assert [one.number for one in told] == list(range(1, len(told) + 1))
    assert told[0].changed == len(x) and told[-1].changed < told[1].changed
    assert share[0] >= 1 > 2 * share[6] > 2 * share[-1] > 0
    assert sum(share) < len(share) / 2


@pytest.mark.parametrize("x", [features(2600, 64), parallel(2600, 12)], ids=["features", "empty"])
def test_killed_and_resumed_it_gives_the_same_bytes(tmp_path, x):
    told = []
    expected = spherical_kmeans(x, 400, 12, 1)

    def die(iteration):
        if iteration.number == 8:
            raise KeyboardInterrupt

    keep = tmp_path / "state.npz"
    with pytest.raises(KeyboardInterrupt):
        spherical_kmeans(x, 400, 12, 1, on_iteration=die, keep=keep)
    assert same(spherical_kmeans(x, 400, 12, 1, on_iteration=told.append, keep=keep), expected)
    assert told[0].number == 6  # five were kept


def test_no_more_than_a_block_is_read(tmp_path):
    class Watched:
        """An array that says how much of it was asked for at once."""

        def __init__(self, x):
            self.x, self.shape, self.ndim, self.dtype, self.most = x, x.shape, 2, x.dtype, 0

        def __len__(self):
            return len(self.x)

        def __getitem__(self, index):
            self.most = max(self.most, len(self.x[index]))
            return self.x[index]

    x = Watched(features(5000, 64))
    spherical_kmeans(x, 300, 3, 1, chunk_rows=100)
    assert x.most == TILE
