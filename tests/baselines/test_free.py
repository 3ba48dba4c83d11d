"""Length, GraNd and TypiClust against plain twins; matched against counting."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from baselines.grand import Grand
from baselines.length import Length
from baselines.matched import Matched
from baselines.typiclust import NO_DISTANCE, TypiClust
from baselines.uniform import Random
from coincide.features.forward.contract import Captured
from coincide.features.signals.grand import GradientNorm
from coincide.features.signals.hidden_last import HiddenLast
from coincide.schema import SubsetOf, Turn, UserError
from tests.baselines.pool import MemoryPool, make_pool


@pytest.fixture(scope="module")
def pool() -> MemoryPool:
    return make_pool()


def test_length_counts_the_answers_that_are_learnt(pool: MemoryPool) -> None:
    turns = (Turn("human", "a b c?"), Turn("gpt", " two words "), Turn("gpt", "unlearnt", False))
    examples = [replace(pool.examples[0], turns=turns), *pool.examples[1:]]
    changed = replace(pool, examples=examples)
    for unit, expected in (("characters", 9), ("words", 2)):
        assert Length(unit=unit).score(changed, 0)["score"][0] == expected  # type: ignore[arg-type]
    tokens = Length(unit="tokens").score(pool, 0)["score"]
    assert tokens.tolist() == pool.signal(Length(unit="tokens").needs()[0])[:, 3].tolist()  # type: ignore[arg-type]


@pytest.mark.parametrize("direction", ["high", "low"])
def test_of_equal_lengths_the_first_rows_are_taken(pool: MemoryPool, direction: str) -> None:
    found = Length(direction=direction).select(pool, 120, 0)  # type: ignore[arg-type]
    lengths = [(len(e.turns[1].text), e.row) for e in pool.examples if pool.usable[e.row]]
    sign = -1 if direction == "high" else 1
    expected = sorted((sign * n, row) for n, row in lengths if n)[:120]
    assert found.rows.tolist() == [row for _, row in expected]


def test_grand_is_the_norm_that_autograd_gives() -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(6, 11, bias=False, dtype=torch.float64)
    states = torch.randn(3, 8, 6, dtype=torch.float64)
    labels = torch.randint(0, 11, (3, 8))
    labels[0, :5] = -100
    labels[1] = -100
    labels[2, [0, 3, 7]] = -100
    real = torch.ones(3, 8, dtype=torch.int64)
    captured = Captured({}, real, torch.zeros(3, 8, dtype=torch.bool), labels, states, head)
    with torch.no_grad():
        found = GradientNorm().read(captured)[:, 0]
    assert torch.isnan(found[1])
    for row in (0, 2):
        head.zero_grad()
        logits = head(states[row : row + 1])
        torch.nn.functional.cross_entropy(logits[0, :-1], labels[row, 1:]).backward()
        assert head.weight.grad is not None
        assert float(found[row]) == pytest.approx(float(head.weight.grad.norm()), rel=1e-6)


def test_grand_ranks_by_its_signal(pool: MemoryPool) -> None:
    values = np.where(pool.usable, pool.signal(GradientNorm())[:, 0], np.nan)
    found = Grand().select(pool, 50, 0)
    expected = np.argsort(-values, kind="stable")[:50]
    assert found.rows.tolist() == expected.tolist()


def test_typiclust_takes_the_most_typical_of_each_cluster_in_turn(pool: MemoryPool) -> None:
    method = TypiClust(clusters=8, neighbors=4, smallest=5)
    assignment = pool.clusters(method.needs()[1]).assignment  # type: ignore[arg-type]
    x = np.asarray(pool.signal(HiddenLast()), np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    able = [r for r in np.flatnonzero(pool.usable).tolist() if pool.examples[r].turns[1].text]
    groups = [[r for r in able if assignment[r] == c] for c in range(8)]

    def typical(row: int, group: list[int]) -> float:
        apart = sorted(float(np.linalg.norm(x[row] - x[other])) for other in group if other != row)
        return 1 / (float(np.mean(apart[:4])) + NO_DISTANCE) if apart else 0.0

    ranked = [sorted(g, key=lambda r, g=g: (-np.float32(typical(r, g)), r)) for g in groups]  # type: ignore[misc]
    large = sorted((c for c in range(8) if len(groups[c]) >= 5), key=lambda c: -len(groups[c]))
    turns = range(max(map(len, groups)))
    expected = [ranked[c][turn] for turn in turns for c in large if turn < len(ranked[c])]
    found = method.select(pool, 40, 0).rows.tolist()
    scores = method.score(pool, 0)["score"]
    for ours, theirs in zip(found, expected, strict=False):  # copies of a row are as typical
        assert scores[ours] == pytest.approx(typical(theirs, groups[assignment[theirs]]), rel=1e-4)


def test_typiclust_leaves_small_clusters_to_the_end(pool: MemoryPool) -> None:
    method = TypiClust(clusters=8, smallest=10**6)
    plain = TypiClust(clusters=8, smallest=1)
    assert set(method.select(pool, 250, 0).rows) == set(plain.select(pool, 250, 0).rows)


def subset_of(pool: MemoryPool, method: Matched, k: int) -> MemoryPool:
    rows = np.sort(method.other.select(pool, k, 0).rows)
    return replace(pool, subsets={SubsetOf(method.other): rows})


def test_matched_has_the_source_counts_of_the_other_and_is_nested(pool: MemoryPool) -> None:
    method = Matched(of="random", other=Random(sources=["s1", "s3"]))
    counts, taken = [], []
    for k in (20, 60, 110):
        seen = subset_of(pool, method, k)
        found = method.select(seen, k, 5).rows
        theirs = Counter(pool.examples[row].source for row in seen.subset(method.needs()[0]))  # type: ignore[arg-type]
        counts.append(Counter(pool.examples[row].source for row in found.tolist()) == theirs)
        taken.append(set(found.tolist()))
        assert len(taken[-1]) == k and pool.usable[found].all()
    assert all(counts)
    assert all(small < large for small, large in pairwise(taken))
    assert set(method.select(subset_of(pool, method, 60), 60, 6).rows.tolist()) != taken[1]


def test_matched_takes_its_size_and_its_name_from_the_other() -> None:
    class Own(Random):
        fixed_size = True

    assert Matched(of="from_file", other=Own()).fixed_size
    assert not Matched(of="random", other=Random()).fixed_size
    assert Matched(of="random", other=Random()).label == "random"
    low, high = (Matched(of="length", other=Length(direction=d)) for d in ("low", "high"))  # type: ignore[arg-type]
    assert low.key_config() != high.key_config()


@pytest.mark.parametrize("other", [None, Matched(of="random", other=Random())])
def test_matched_of_itself_or_of_nothing_is_refused(other: object) -> None:
    with pytest.raises(UserError, match="and not matched itself"):
        Matched(of="matched", other=other)
