import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coincide.ops import kernel_rows
from coincide.ops.density import cluster_density, mean_kernel
from coincide.ops.kernel import kernel_row_sums
from coincide.ops.kernel_rows import KernelRows
from coincide.ops.mmd import cluster_kernel, gaussian_kernel, greedy_mmd, greedy_mmd_rows


def rows(n, seed=0, width=6):
    return np.random.default_rng(seed).standard_normal((n, width)).astype(np.float16) / 2


def brute_force_order(kernel, m):
    """The formula written out: MMD² of every candidate subset at every step."""
    chosen: list[int] = []
    for _ in range(m):
        best, pick = np.inf, -1
        for j in set(range(len(kernel))) - set(chosen):
            s = chosen + [j]
            value = kernel.mean() + kernel[np.ix_(s, s)].mean() - 2 * kernel[:, s].mean()
            if value < best - 1e-12:
                best, pick = value, j
        chosen.append(pick)
    return chosen


def test_kernel_is_the_gaussian_of_the_distance():
    x = rows(5).astype(np.float64)
    kernel = gaussian_kernel(x, 0.7)
    for p in range(5):
        for q in range(5):
            expected = np.exp(-np.sum((x[p] - x[q]) ** 2) / (2 * 0.7**2))
            assert kernel[p, q] == pytest.approx(expected, rel=1e-12)
    assert (np.diag(kernel) == 1).all()


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 14), seed=st.integers(0, 10_000), gamma=st.sampled_from([0.3, 1.0, 3.0]))
def test_greedy_equals_brute_force(n, seed, gamma):
    kernel = gaussian_kernel(rows(n, seed), gamma)
    assert greedy_mmd(kernel, n).tolist() == brute_force_order(kernel, n)


def test_greedy_takes_the_lowest_of_equal_rows():
    x = np.repeat(rows(7), 5, axis=0)
    order = greedy_mmd(gaussian_kernel(x, 1.0), 35)
    for copies in range(7):
        mine = [row for row in order.tolist() if row // 5 == copies]
        assert mine == sorted(mine)


def test_rounding_never_decides():
    kernel = gaussian_kernel(np.repeat(rows(7), 5, axis=0), 1.0)
    noise = 1e-15 * np.random.default_rng(0).standard_normal(kernel.shape)
    np.testing.assert_array_equal(greedy_mmd(kernel + noise, 35), greedy_mmd(kernel, 35))


def test_greedy_picks_the_same_content_whatever_the_order_of_rows():
    x = np.concatenate([rows(40), rows(10)])
    shuffled = x[np.random.default_rng(1).permutation(50)]
    first = greedy_mmd(gaussian_kernel(x, 1.0), 20)
    second = greedy_mmd(gaussian_kernel(shuffled, 1.0), 20)
    np.testing.assert_array_equal(x[first], shuffled[second])


def test_shorter_orders_are_prefixes():
    kernel = gaussian_kernel(rows(30), 1.0)
    np.testing.assert_array_equal(greedy_mmd(kernel, 9), greedy_mmd(kernel, 30)[:9])


def test_a_cluster_too_large_for_its_kernel_gives_the_same_order():
    x = np.concatenate([rows(2500), rows(50)])  # more than one block, with equal rows
    whole = greedy_mmd(gaussian_kernel(x, 1.0), 60)
    np.testing.assert_array_equal(greedy_mmd_rows(x, 1.0, 60, kernel_rows=100), whole)


def test_one_kernel_gives_the_density_and_the_order_of_all_rows():
    x = np.concatenate([rows(70), rows(20)])
    kernel = gaussian_kernel(x, 0.9)
    found = cluster_kernel(x, 0.9)
    np.testing.assert_array_equal(found.order, greedy_mmd(kernel, 90))
    for diagonal in (True, False):
        density = mean_kernel(found.sums, include_diagonal=diagonal)
        assert density == cluster_density(x, 0.9, include_diagonal=diagonal)
    large = cluster_kernel(x, 0.9, kernel_rows=89)
    assert large.order is None and cluster_kernel(x, 0.9, order=False).order is None
    np.testing.assert_array_equal(large.sums, found.sums)
    for m in (0, 1, 50, 90):
        known = greedy_mmd_rows(x, 0.9, m, kernel_rows=89, sums=large.sums)
        np.testing.assert_array_equal(known, found.order[:m])


@pytest.mark.parametrize("held", [1, 40, 200])
@pytest.mark.parametrize("ahead", [1, 5, 64])
def test_kernel_rows_are_exact_whatever_was_guessed(held, ahead, monkeypatch):
    monkeypatch.setattr(kernel_rows, "AHEAD", ahead)
    x = rows(200, width=9)
    kernel = gaussian_kernel(x, 0.7)
    row_of = KernelRows(x, 0.7, kernel.mean(0), held)
    for row in np.random.default_rng(held).permutation(200).tolist():  # never the one guessed
        np.testing.assert_allclose(row_of(row), kernel[row], rtol=1e-12)


def test_guesses_save_passes_over_a_large_cluster():
    random = np.random.default_rng(0)
    x = random.standard_normal((600, 8)) @ random.standard_normal((8, 64)) / 8
    kernel = gaussian_kernel(x, 1.0)
    row_of, passes = KernelRows(x, 1.0, kernel.mean(0), held=100), []
    compute = row_of._compute
    row_of._compute = lambda rows: (passes.append(len(rows)), compute(rows))
    for row in greedy_mmd(kernel, 120).tolist():
        row_of(row)
    assert len(passes) < 120 / 8 and sum(passes) < 2 * 120


def test_a_cluster_of_copies_has_no_components():
    x = np.repeat(rows(1), 50, axis=0)
    assert greedy_mmd_rows(x, 1.0, 7, kernel_rows=10).tolist() == list(range(7))


@pytest.mark.parametrize("block_rows", [1, 7, 64, 1000])
@pytest.mark.parametrize("include_diagonal", [True, False])
def test_row_sums_do_not_depend_on_the_block(block_rows, include_diagonal):
    x = rows(130)
    kernel = gaussian_kernel(x, 0.8)
    np.fill_diagonal(kernel, float(include_diagonal))
    sums = kernel_row_sums(x, 0.8, include_diagonal=include_diagonal, block_rows=block_rows)
    np.testing.assert_allclose(sums, kernel.sum(1), rtol=1e-12)


def test_density_counts_the_pairs_it_says():
    x = rows(9)
    kernel = gaussian_kernel(x, 1.0)
    assert cluster_density(x, 1.0) == pytest.approx(kernel.mean(), rel=1e-12)
    off_diagonal = (kernel.sum() - 9) / 72
    assert cluster_density(x, 1.0, include_diagonal=False) == pytest.approx(off_diagonal)


@pytest.mark.parametrize("include_diagonal", [True, False])
def test_density_of_a_singleton_and_of_copies_is_one(include_diagonal):
    one = rows(1)
    for x in (one, np.repeat(one, 4, axis=0)):
        assert cluster_density(x, 1.0, include_diagonal=include_diagonal) == pytest.approx(1.0)


def test_off_diagonal_density_keeps_its_precision_when_tiny():
    x = np.eye(3) * 6  # every squared distance 72
    assert cluster_density(x, 1.0, include_diagonal=False) == pytest.approx(np.exp(-36), rel=1e-9)


def test_refusals():
    with pytest.raises(ValueError, match="empty cluster"):
        cluster_density(rows(3)[:0], 1.0)
    with pytest.raises(ValueError, match="gamma 0"):
        gaussian_kernel(rows(3), 0.0)
    with pytest.raises(ValueError, match=r"m = 4 .* 3 rows"):
        greedy_mmd(np.eye(3), 4)
