"""EL2N, perplexity and Self-Sup: each ranks by what it says."""

from __future__ import annotations

import numpy as np
import pytest

from baselines.clip_score import ClipScore
from baselines.el2n import El2n
from baselines.perplexity import Perplexity
from baselines.self_sup import SelfSup, prototype_distance
from coincide.features.signals.hidden_last import HiddenLast
from coincide.features.signals.token_scores import TokenScores
from coincide.schema import Clusters, UserError
from tests.baselines.pool import make_pool


@pytest.mark.parametrize(("method", "column"), [(El2n, 0), (Perplexity, 2)])
def test_ranks_by_its_column(method, column: int) -> None:
    pool = make_pool()
    values = np.where(pool.usable, pool.signal(TokenScores())[:, column], np.nan)
    order = np.argsort(values, kind="stable")[: (~np.isnan(values)).sum()]
    n, k = len(order), 60
    windows = {"low": order[:k], "high": order[-k:], "middle": order[n // 2 - k // 2 :][:k]}
    for direction, expected in windows.items():
        found = method(direction=direction).select(pool, k, 0)
        assert set(found.rows.tolist()) == set(expected.tolist())
        assert found.scores.dtype == np.float32
        np.testing.assert_array_equal(np.isnan(found.scores), np.isnan(values))


def test_prototype_distance_equals_brute_force() -> None:
    rng = np.random.default_rng(0)
    x, centroids = rng.normal(size=(9000, 5)).astype(np.float16), rng.normal(size=(4, 5))
    assignment = rng.integers(-1, 4, 9000)
    ours = prototype_distance(x, Clusters(centroids, assignment))
    for row in range(0, 9000, 501):
        a, b = x[row].astype(np.float64), centroids[assignment[row]]
        expected = 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        assert np.isnan(ours[row]) if assignment[row] < 0 else ours[row] == pytest.approx(expected)


def test_planted_outliers_are_hard() -> None:
    pool = make_pool()
    x = pool.signals[HiddenLast()].copy()
    outliers = [30, 64, 121, 200]
    rng = np.random.default_rng(2)
    x[outliers] = (x[outliers] + 40 * rng.normal(size=(4, 24))).astype(np.float16)
    clustering = SelfSup(clusters=8).needs()[1]
    pool.clusters(clustering)  # type: ignore[arg-type]
    pool.signals = {**pool.signals, HiddenLast(): x}
    hard = SelfSup(clusters=8).select(pool, 30, 0)
    easy = SelfSup(clusters=8, keep="easy").select(pool, 150, 0)
    assert set(outliers) <= set(hard.rows.tolist())
    assert not set(outliers) & set(easy.rows.tolist())
    assert SelfSup(clusters=8, keep="easy").label == "easy"


def test_clip_score_is_the_dot_product_of_unit_rows() -> None:
    pool = make_pool()
    found = ClipScore(text_only="drop").select(pool, 40, 0)
    image, text = (pool.signal(signal) for signal in ClipScore().needs())  # type: ignore[arg-type]
    assert found.scores is not None
    for row in found.rows.tolist():
        assert found.scores[row] == pytest.approx(float(image[row] @ text[row]), abs=1e-6)
    others = np.setdiff1d(np.flatnonzero(~np.isnan(found.scores)), found.rows)
    assert found.scores[found.rows].min() >= found.scores[others].max()


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: El2n(direction="up"), "method.direction: got 'up' for el2n; choices: low, middle"),  # type: ignore[arg-type]
        (lambda: Perplexity(text_only="no"), "method.text_only: got 'no'.*keep, quota, drop"),  # type: ignore[arg-type]
        (lambda: ClipScore(text_only="keep"), "method.text_only: got 'keep'.*quota, drop"),  # type: ignore[arg-type]
        (lambda: SelfSup(clusters=0), "method.clusters: got 0 for self_sup; expected more than 0"),
    ],
)
def test_bad_fields_are_refused(make, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        make()
