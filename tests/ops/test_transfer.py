import numpy as np
import pytest

from coincide.ops.transfer import transferability


def centroids(k, layers=2, width=3, seed=0):
    x = np.random.default_rng(seed).standard_normal((k, layers * 2 * width)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def test_paper_averages_the_cosine_to_every_other_centroid():
    x = centroids(6).astype(np.float64)
    ours = transferability(x, layers=[3, 7], modality="all", exclude_above=None)
    for i in range(6):
        others = [cosine(x[i], x[j]) for j in range(6) if j != i]
        assert ours[i] == pytest.approx(np.mean(others), rel=1e-12)


def test_released_reads_the_language_columns_and_skips_close_pairs():
    x = centroids(6).astype(np.float64)
    x[1] = x[0] + 0.01  # closer than 0.9
    language = x[:, [3, 4, 5, 9, 10, 11]]
    ours = transferability(x, layers=2)
    for i in range(6):
        cosines = [cosine(language[i], language[j]) for j in range(6)]
        assert ours[i] == pytest.approx(np.mean([c for c in cosines if c <= 0.9]), rel=1e-12)
    assert cosine(language[0], language[1]) > 0.9


def test_visual_columns_do_not_matter_to_the_released_variant():
    x = centroids(8)
    changed = x.copy()
    changed[:, [0, 1, 2, 6, 7, 8]] = 5
    np.testing.assert_array_equal(transferability(x, layers=2), transferability(changed, layers=2))


def test_a_centroid_without_a_language_part_or_without_others_has_none():
    x = centroids(4)
    x[2, [3, 4, 5, 9, 10, 11]] = 0
    assert transferability(x, layers=2)[2] == 0
    alike = np.repeat(centroids(1), 3, axis=0)
    assert transferability(alike, layers=2).tolist() == [0, 0, 0]
    assert transferability(centroids(1), layers=2, exclude_above=None).tolist() == [0]


def test_blocks_of_rows_join_up():
    x = centroids(1030)
    ours = transferability(x, layers=2, modality="all", exclude_above=None)
    unit = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    all_pairs = unit @ unit.T
    np.testing.assert_allclose(ours, (all_pairs.sum(1) - np.diag(all_pairs)) / 1029, atol=1e-12)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_and_memory_maps_do_not_show(threads, tmp_path):
    import torch

    x, before = centroids(2100, width=8), torch.get_num_threads()
    expected = transferability(x, layers=2)
    np.save(tmp_path / "x.npy", x)
    torch.set_num_threads(threads)
    try:
        ours = transferability(np.load(tmp_path / "x.npy", mmap_mode="r"), layers=2)
    finally:
        torch.set_num_threads(before)
    assert ours.tobytes() == expected.tobytes()


def test_refusals():
    with pytest.raises(ValueError, match="width 12 and 5 layers"):
        transferability(centroids(3), layers=5)
    with pytest.raises(ValueError, match="'vision'; choices: language, all"):
        transferability(centroids(3), layers=2, modality="vision")
