import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from coincide.ops.allocate import allocate, allocation_targets, fill_shortfall, processing_order


@st.composite
def clusters(draw):
    n = draw(st.integers(1, 30))
    score = draw(arrays(np.float64, n, elements=st.floats(-5, 5)))
    sizes = draw(arrays(np.int64, n, elements=st.integers(0, 40)))
    k = draw(st.integers(0, int(sizes.sum())))
    return score, sizes, k, draw(st.sampled_from([1e-4, 0.02, 0.1, 1.0, 50.0]))


def released_loop(score, sizes, k, temperature):
    """The released code's loop, word for word, for scores that do not overflow."""
    share = np.exp(score / temperature)
    order = np.argsort(share)[::-1]
    counts, left = np.zeros(len(score), np.int64), k
    for position, cluster in enumerate(order):
        asked = round(left * share[cluster] / share[order[position:]].sum())
        counts[cluster] = min(asked, sizes[cluster])
        left -= counts[cluster]
    return counts


@settings(max_examples=150, deadline=None)
@given(clusters())
def test_never_above_a_size_and_never_above_k(case):
    score, sizes, k, temperature = case
    for rule in ("sequential", "softmax"):
        counts = allocate(score, sizes, k, temperature, rule=rule)
        assert counts.dtype == np.int64
        assert (counts >= 0).all() and (counts <= sizes).all()
        assert counts.sum() <= k
        filled = fill_shortfall(counts, sizes, k, processing_order(score, sizes))
        assert filled.sum() == k and (filled >= counts).all() and (filled <= sizes).all()


@settings(max_examples=150, deadline=None)
@given(clusters())
def test_softmax_hits_the_budget(case):
    score, sizes, k, temperature = case
    assert allocate(score, sizes, k, temperature, rule="softmax").sum() == k
    more = int(sizes.sum()) + 5
    np.testing.assert_array_equal(allocate(score, sizes, more, temperature, rule="softmax"), sizes)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 3.0])
def test_sequential_equals_the_released_loop(temperature):
    for seed in range(30):
        random = np.random.default_rng(seed)
        score, sizes = random.uniform(0, 2, 50), random.integers(1, 80, 50)
        k = int(sizes.sum() * random.uniform(0.05, 0.9))
        np.testing.assert_array_equal(
            allocate(score, sizes, k, temperature), released_loop(score, sizes, k, temperature)
        )


@pytest.mark.parametrize("rule", ["sequential", "softmax"])
def test_no_overflow_where_exp_would(rule):
    score, sizes = np.array([900.0, 800.0, 0.0, -900.0]), np.array([3, 5, 7, 9])
    assert allocate(score, sizes, 10, 0.1, rule=rule).tolist() == [3, 5, 2, 0]


@pytest.mark.parametrize("rule", ["sequential", "softmax"])
def test_empty_clusters_take_no_part(rule):
    score, sizes = np.array([1.0, np.nan, 0.8, np.inf, 0.5]), np.array([9, 0, 9, 0, 9])
    counts = allocate(score, sizes, 12, 0.3, rule=rule)
    kept = allocate(score[[0, 2, 4]], sizes[[0, 2, 4]], 12, 0.3, rule=rule)
    assert counts[[0, 2, 4]].tolist() == kept.tolist() and counts[[1, 3]].tolist() == [0, 0]
    assert allocate(np.array([np.nan]), np.array([0]), 0, 0.3, rule=rule).tolist() == [0]


def test_softmax_spills_in_proportion():
    # Shares 4 : 2 : 1 : 1 of 16; the first holds 2, so 14 go 2 : 1 : 1.
    score, sizes = np.log([4.0, 2.0, 1.0, 1.0]), np.array([2, 9, 9, 9])
    assert allocate(score, sizes, 16, 1.0, rule="softmax").tolist() == [2, 7, 4, 3]
    targets = allocation_targets(score, sizes, 16, 1.0, rule="softmax")
    assert targets.tolist() == [8, 4, 2, 2]


def test_equal_scores_share_equally_and_ties_go_to_the_lowest():
    assert allocate(np.full(4, 0.3), np.full(4, 9), 10, 0.1, rule="softmax").tolist() == [
        3,
        3,
        2,
        2,
    ]


def test_a_full_tail_leaves_the_released_rule_short():
    score, sizes = np.array([2.0, 1.0]), np.array([50, 2])
    counts = allocate(score, sizes, 40, 1.0)
    assert counts.tolist() == [29, 2]
    assert fill_shortfall(counts, sizes, 40, processing_order(score, sizes)).tolist() == [38, 2]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"temperature": 0.0}, "temperature 0.0; expected above 0"),
        ({"score": np.array([1.0, np.nan])}, r"not finite for clusters \[1\]"),
        ({"temperature": 1e-320}, "not finite for clusters"),
        ({"k": -1}, "k = -1"),
        ({"score": np.ones(3)}, "expected both"),
        ({"rule": "greedy"}, "choices: sequential, softmax"),
    ],
)
def test_refusals(changed, message):
    case = {"score": np.ones(2), "sizes": np.full(2, 5), "k": 3, "temperature": 0.1} | changed
    with pytest.raises(ValueError, match=message):
        allocate(**case)
