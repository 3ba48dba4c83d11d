import numpy as np
import pytest

from bench import kmeans
from coincide.features.engine.shards import ShardedArray


def test_features_are_the_same_for_a_row_and_heavy_tailed(tmp_path):
    for rows in (9000, 9000):
        kmeans.make(tmp_path / "a", rows, 16)
    kmeans.make(tmp_path / "b", 9000, 16)
    x = ShardedArray(tmp_path / "a")
    assert x.shape == (9000, 16) and x.dtype == np.float16
    assert x[:].tobytes() == ShardedArray(tmp_path / "b")[:].tobytes()
    weight = kmeans.topic_weights(16_632)
    assert weight[0] == pytest.approx(20_000 / 665_298, rel=1e-3)
    assert weight[0] > 3 * weight[10] > 3 * weight[1000]


def test_the_fit_finds_both_speeds():
    size = kmeans.Size(1000, 64, 50, 5)
    cosines = np.array([50_000, 50_000, 30_000, 9_000, 2_000])
    seconds = 2e-9 * 1000 * 64 + 5e-12 * 2 * 64 * cosines
    assert kmeans.fitted(size, cosines, np.cumsum(seconds)) == pytest.approx((2e-9, 5e-12))


@pytest.mark.slow
def test_the_command_prints_every_figure(capsys):
    kmeans.main(
        "--rows 4096 --width 272 --clusters 1000 --iterations 4 --threads 1 --processes 2".split()
    )
    printed = capsys.readouterr().out
    for figure in ("products", "ours", "memory", "limit", "slope", "basis", "24,000,000"):
        assert figure in printed
    assert "the same bytes" in printed
