"""COINCIDE as the pipeline calls it: a pool in, a selection out."""

from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest

from coincide.features.signals.activations import Activations
from coincide.method import Coincide, plan_clusters, select_coincide
from coincide.ops.kmeans import spherical_kmeans
from coincide.schema import Clustering, Clusters, Method, UserError

LAYERS = (3, 7)
SIGNAL = Activations(LAYERS)


@dataclass
class ArrayPool:
    """The Pool protocol over arrays."""

    x: np.ndarray
    found: Clusters
    usable: np.ndarray
    examples: tuple = ()

    def signal(self, signal):
        assert signal == SIGNAL
        return self.x

    def clusters(self, clustering):
        assert clustering == Clustering(SIGNAL, len(self.found.centroids), 50, 1234)
        return self.found


@pytest.fixture(scope="module")
def pool():
    random = np.random.default_rng(0)
    middle = random.standard_normal((12, 40))
    x = middle[random.choice(12, 600, p=random.dirichlet(np.ones(12)))]
    x = x + random.standard_normal(x.shape)
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)
    centroids, assignment = spherical_kmeans(x, 20, 50, 1234)
    return ArrayPool(x, Clusters(centroids, assignment), np.ones(600, bool))


METHOD = Coincide(layers=LAYERS, clusters=20)


def test_fulfils_the_protocol_and_says_what_it_needs():
    method: Method = METHOD
    assert method.name == "coincide"
    assert METHOD.needs() == (SIGNAL, Clustering(SIGNAL, 20, 50, 1234))
    assert Coincide(layers=[3, 7], clusters=20) == METHOD  # a YAML list


@pytest.mark.parametrize("variant", ["released", "paper"])
@pytest.mark.parametrize("k", [1, 37, 120, 599, 600])
def test_selects_exactly_k_rows(pool, k, variant):
    chosen = replace(METHOD, variant=variant).select(pool, k, seed=0)
    assert chosen.rows.dtype == np.int64 and len(set(chosen.rows.tolist())) == k
    table = chosen.tables["clusters"]
    assert sum(table["chosen"]) == k and sum(table["size"]) == 600
    counts = np.bincount(pool.found.assignment[chosen.rows], minlength=20)
    assert counts.tolist() == table["chosen"]
    same = select_coincide(
        pool.x, pool.found.assignment, pool.found.centroids, k, layers=LAYERS, variant=variant
    )
    np.testing.assert_array_equal(chosen.rows, same)


def test_the_shortfall_of_the_released_rule_is_counted_and_left_on_request(pool):
    hot = replace(METHOD, temperature=5.0)  # equal shares: small clusters fill up
    exact, short = hot.select(pool, 500, 0), replace(hot, exact=False).select(pool, 500, 0)
    missing = 500 - len(short.rows)
    assert missing == exact.facts["shortfall_filled"] == short.facts["shortfall_filled"] > 0
    np.testing.assert_array_equal(exact.rows[: len(short.rows)], short.rows)
    np.testing.assert_array_equal(short.ranking, exact.rows)
    assert sum(short.tables["clusters"]["chosen"]) == len(short.rows)


@pytest.mark.parametrize("variant", ["released", "paper"])
def test_rows_that_are_not_usable_are_never_chosen(pool, variant):
    usable = np.random.default_rng(1).random(600) < 0.5
    usable[pool.found.assignment == 4] = False  # leaves a cluster empty
    assignment = np.where(np.arange(600) % 10 == 0, -1, pool.found.assignment)
    part = ArrayPool(pool.x, Clusters(pool.found.centroids, assignment), usable)
    most = int((usable & (assignment >= 0)).sum())
    method = replace(METHOD, variant=variant)
    chosen = method.select(part, most, seed=0)
    assert sorted(chosen.rows.tolist()) == np.flatnonzero(usable & (assignment >= 0)).tolist()
    assert chosen.facts["clusters_empty"] == 1
    assert np.isnan(chosen.tables["clusters"]["density"][4])
    with pytest.raises(UserError, match=f"k = {most + 1}; expected 0 to the {most} rows"):
        method.select(part, most + 1, seed=0)


def test_within_a_cluster_the_picks_stay_close_to_the_whole(pool):
    """The greedy subset has a lower MMD than random ones of the same allocation."""
    from coincide.ops.mmd import gaussian_kernel

    def discrepancy(rows):
        total = 0.0
        for cluster in range(20):
            members = np.flatnonzero(pool.found.assignment == cluster)
            picked = np.isin(members, rows)
            if picked.any():
                kernel = gaussian_kernel(pool.x[members], 1.0)
                between = kernel[:, picked].mean()
                total += kernel.mean() + kernel[np.ix_(picked, picked)].mean() - 2 * between
        return total

    greedy = METHOD.select(pool, 120, 0)
    for seed in range(3):
        random = replace(METHOD, within="random").select(pool, 120, seed)
        assert random.tables["clusters"]["chosen"] == greedy.tables["clusters"]["chosen"]
        assert discrepancy(greedy.rows) < discrepancy(random.rows)


def test_the_seed_matters_only_to_random_picks(pool):
    np.testing.assert_array_equal(METHOD.select(pool, 90, 0).rows, METHOD.select(pool, 90, 1).rows)
    random = replace(METHOD, within="random")
    assert random.uses_seed and not METHOD.uses_seed
    first, again, other = (set(random.select(pool, 90, s).rows.tolist()) for s in (0, 0, 1))
    assert first == again != other


def test_ablations_change_the_score_as_they_say(pool):
    full = METHOD.select(pool, 100, 0).tables["clusters"]
    alone = replace(METHOD, use_density=False).select(pool, 100, 0).tables["clusters"]
    assert alone["score"] == full["transferability"]
    density = replace(METHOD, use_transferability=False).select(pool, 100, 0).tables["clusters"]
    np.testing.assert_allclose(density["score"], 1 / np.array(full["density"]))
    whole = replace(METHOD, modality="all").select(pool, 100, 0).tables["clusters"]
    assert whole["transferability"] != full["transferability"]


def test_the_numbering_of_clusters_does_not_matter(pool):
    relabel = np.random.default_rng(3).permutation(20)
    centroids = np.empty_like(pool.found.centroids)
    centroids[relabel] = pool.found.centroids
    renamed = select_coincide(pool.x, relabel[pool.found.assignment], centroids, 77, layers=LAYERS)
    np.testing.assert_array_equal(renamed, METHOD.select(pool, 77, 0).rows)


def test_the_order_of_rows_does_not_matter(pool):
    order = np.random.default_rng(4).permutation(600)
    shuffled = select_coincide(
        pool.x[order], pool.found.assignment[order], pool.found.centroids, 77, layers=LAYERS
    )
    assert set(order[shuffled].tolist()) == set(METHOD.select(pool, 77, 0).rows.tolist())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "variant",
            "publsihed",
            r"method.variant: got 'publsihed'; choices: \['released', 'paper'",
        ),
        ("modality", "vision", "method.modality: got 'vision'"),
        ("within", "best", "method.within: got 'best'"),
        ("temperature", 0, "method.temperature: got 0; expected a number above 0"),
        ("gamma", -1.0, "method.gamma"),
        ("clusters", 0, "method.clusters"),
        ("layers", [], "method.layers"),
        ("layers", [3, 3], "method.layers"),
    ],
)
def test_a_bad_setting_is_refused_when_read(field, value, message):
    with pytest.raises(UserError, match=message):
        replace(METHOD, **{field: value})


def test_arrays_that_do_not_fit_are_refused(pool):
    three_layers = replace(METHOD, layers=(3, 7, 9))
    with pytest.raises(UserError, match="width 40 and 3 layers"):
        three_layers.select(_any_layers(pool), 10, 0)
    with pytest.raises(ValueError, match="assigned to cluster 19; expected -1 to 9"):
        select_coincide(pool.x, pool.found.assignment, pool.found.centroids[:10], 5, layers=2)
    with pytest.raises(ValueError, match="600 assignments for 599 rows"):
        select_coincide(pool.x[1:], *_data(pool)[1:], 5, layers=2)
    with pytest.raises(ValueError, match="choices"):
        select_coincide(*_data(pool), 5, layers=2, variant="mine")


def _any_layers(pool):
    class AnyPool(ArrayPool):
        def signal(self, signal):
            return self.x

        def clusters(self, clustering):
            return self.found

    return AnyPool(pool.x, pool.found, pool.usable)


def _data(pool):
    return pool.x, pool.found.assignment, pool.found.centroids


def test_a_clusters_density_is_that_of_its_own_rows(pool):
    """An empty cluster in the middle must not shift its neighbours (the released code's fault)."""
    from coincide.method import VARIANTS
    from coincide.ops.density import cluster_density

    assignment = np.where(pool.found.assignment == 5, -1, pool.found.assignment)
    plan = plan_clusters(
        pool.x, assignment, pool.found.centroids, 50, LAYERS, 0.1, 1.0, VARIANTS["released"]
    )
    assert np.isnan(plan.density[5]) and plan.counts[5] == 0
    for cluster in (4, 6, 19):
        assert plan.density[cluster] == cluster_density(pool.x[assignment == cluster], 1.0)


def test_the_yaml_names_every_field():
    from omegaconf import OmegaConf

    text = Path(__file__).parents[2] / "conf" / "method" / "coincide.yaml"
    config = OmegaConf.load(text)
    reference = OmegaConf.create({"reference": {"layers": [3, 7]}, "data": {"clusters": 20}})
    values = dict(OmegaConf.merge(reference, {"method": config}).method)
    assert values.pop("_target_") == "coincide.method.Coincide"
    assert Coincide(**values) == METHOD
    assert set(values) == {field.name for field in fields(Coincide)}


@pytest.fixture
def limits(monkeypatch):
    """Sets what only shapes the work: rows per block, largest kernel held, threads."""
    import torch

    from coincide.ops import clusters, mmd

    before = torch.get_num_threads()

    def use(*, block_rows=None, kernel_rows=None, threads=1):
        if block_rows:
            monkeypatch.setitem(
                clusters.each_cluster.__kwdefaults__, "block_bytes", block_rows * 40 * 2
            )
        if kernel_rows:
            for function in (mmd.cluster_kernel, mmd.greedy_mmd_rows):
                monkeypatch.setitem(function.__kwdefaults__, "kernel_rows", kernel_rows)
        torch.set_num_threads(threads)

    yield use
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("kernel_rows", [1, 25, 4096])
@pytest.mark.parametrize("block_rows", [1, 60, 10_000])
def test_blocks_kernels_and_threads_do_not_show(pool, limits, block_rows, kernel_rows, threads):
    expected = METHOD.select(pool, 120, 0)
    limits(block_rows=block_rows, kernel_rows=kernel_rows, threads=threads)
    ours = METHOD.select(pool, 120, 0)
    assert ours.rows.tobytes() == expected.rows.tobytes()
    assert ours.tables == expected.tables


@pytest.mark.parametrize("shards", [1, 12])
def test_shards_select_as_one_array_does(pool, limits, shards, tmp_path):
    from coincide.features.engine.shards import ShardedArray, write_shard

    expected = METHOD.select(pool, 120, 0)
    for index, part in enumerate(np.array_split(pool.x, shards)):
        write_shard(tmp_path, index, part, np.ones(len(part), bool))
    limits(block_rows=60, kernel_rows=25, threads=2)
    ours = METHOD.select(replace(pool, x=ShardedArray(tmp_path)), 120, 0)
    assert ours.rows.tobytes() == expected.rows.tobytes()


def test_no_more_rows_are_read_at_once_than_a_block_has(pool, limits, monkeypatch):
    from coincide.ops import kernel, kernel_rows

    class Watched:
        shape, dtype, ndim = pool.x.shape, pool.x.dtype, 2
        most = 0

        def __len__(self):
            return len(pool.x)

        def __getitem__(self, index):
            self.most = max(self.most, len(pool.x[index]))
            return pool.x[index]

    watched, largest = Watched(), int(np.bincount(pool.found.assignment).max())
    monkeypatch.setitem(kernel.kernel_row_sums.__kwdefaults__, "block_rows", 40)
    monkeypatch.setattr(kernel_rows, "BLOCK_ROWS", 40)
    monkeypatch.setattr(kernel_rows, "SAMPLE", 40)
    limits(block_rows=60, kernel_rows=25)
    METHOD.select(replace(pool, x=watched), 120, 0)
    assert 40 < watched.most <= 60 < largest
