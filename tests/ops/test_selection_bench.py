import numpy as np
import pytest

from bench import selection
from bench.made import cluster_sizes
from bench.watch import memory


def test_memory_held_in_the_block_is_seen():
    with memory(0.001) as peak:
        before = peak["anon"]
        held = np.ones(2**23)
        del held
    assert peak["anon"] - before > 0.9 * 2**26
    assert peak["all"] >= max(peak["anon"], peak["file"])


def test_cluster_sizes_are_heavy_tailed_and_sum_to_the_rows():
    sizes = cluster_sizes(665_298, 10_000, 20_000)
    assert sizes.sum() == 665_298 and sizes[0] == 20_000 and len(sizes) == 10_000
    assert sizes.min() >= 1 and np.all(np.diff(sizes) <= 0)
    with pytest.raises(SystemExit, match="cannot have"):
        cluster_sizes(100, 3, 20)


def test_a_slope_is_the_power():
    assert selection.slope((1, 2, 4), (3.0, 12.0, 48.0)) == pytest.approx(2)


@pytest.mark.slow
def test_the_command_prints_every_figure(capsys):
    selection.main(
        "--rows 3000 --clusters 40 --largest 600 --dim 64 --knn-rows 512 --published 80 "
        "--growth-rows 16000".split()
    )
    printed = capsys.readouterr().out
    for figure in ("transferability", "a fifth", "kNN 512", "core hours", "growth over 4", "MiB"):
        assert figure in printed
    assert printed.count("same order: True") == 2
