import numpy as np
import pytest
import torch

from coincide.features.engine.shards import ShardedArray, write_shard
from coincide.ops.clusters import LazyRows, each_cluster, members_of
from coincide.ops.threads import map_threads

SIZES = (0, 1, 40, 3, 0, 17, 90, 1, 8)


def scattered(seed=0, width=5):
    random = np.random.default_rng(seed)
    assignment = random.permutation(np.repeat(np.arange(len(SIZES)), SIZES)).astype(np.int32)
    return random.standard_normal((len(assignment), width)).astype(np.float16), assignment


class Watched:
    """Knows how many rows it was asked for at once, and in which order."""

    def __init__(self, x):
        self.x, self.shape, self.dtype, self.ndim = x, x.shape, x.dtype, x.ndim
        self.most, self.ascending = 0, True

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        found = self.x[index]
        self.most = max(self.most, len(found))
        if not isinstance(index, slice):
            self.ascending &= bool((np.diff(index) > 0).all())
        return found


def test_members_are_the_rows_of_each_cluster():
    assignment = np.array([2, -1, 0, 2, 2, 0])
    assert [rows.tolist() for rows in members_of(assignment, 4)] == [[2, 5], [], [0, 3, 4], []]
    with pytest.raises(ValueError, match="assigned to cluster 2; expected -1 to 1"):
        members_of(assignment, 2)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("block_rows", [1, 7, 50, 1000])
def test_every_cluster_gets_its_rows_and_no_block_is_larger_than_said(threads, block_rows):
    x, assignment = scattered()
    members = members_of(assignment, len(SIZES))
    members[6] = members[6][::-1]  # in the order given
    watched = Watched(x)
    found = each_cluster(
        lambda i, rows: np.concatenate([rows[j : j + 4] for j in range(0, len(rows), 4)]),
        watched,
        members,
        threads=threads,
        block_bytes=block_rows * 5 * 2,
    )
    assert sorted(found) == [i for i, size in enumerate(SIZES) if size]
    for i, rows in found.items():
        np.testing.assert_array_equal(rows, x[members[i]])
    assert watched.most <= max(block_rows, 4) and watched.ascending


def test_rows_are_a_view_in_the_order_given(tmp_path):
    x, _ = scattered()
    write_shard(tmp_path, 0, x[:100], np.ones(100, bool))
    write_shard(tmp_path, 1, x[100:], np.ones(len(x) - 100, bool))
    wanted = np.random.default_rng(0).permutation(len(x))[:70]
    for source in (x, ShardedArray(tmp_path)):
        view = LazyRows(source, wanted)
        assert len(view) == 70 and view.shape == (70, 5) and view.dtype == np.float16
        np.testing.assert_array_equal(view[10:30], x[wanted[10:30]])
        np.testing.assert_array_equal(view[[3, 1]], x[wanted[[3, 1]]])
        np.testing.assert_array_equal(LazyRows(view, np.array([5, 2]))[:], x[wanted[[5, 2]]])


def test_each_piece_has_one_thread_and_the_setting_comes_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert map_threads(lambda _: torch.get_num_threads(), range(5)) == [1] * 5
        assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError):
            map_threads(lambda i: 1 // i, range(3))
        assert torch.get_num_threads() == 2
        inner = map_threads(lambda i: map_threads(lambda j: i * j, range(3)), range(4))
        assert inner == [[0, i, 2 * i] for i in range(4)]
    finally:
        torch.set_num_threads(before)
