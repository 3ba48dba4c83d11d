"""Random selection: nested over budgets, and restricted to named sources on request."""

from __future__ import annotations

import numpy as np
import pytest

from baselines.uniform import Random
from coincide.schema import UserError
from tests.baselines.pool import make_pool


def test_budgets_are_nested_and_seeds_differ() -> None:
    pool = make_pool()
    small, large = (Random().select(pool, k, 3).rows for k in (20, 60))
    np.testing.assert_array_equal(small, large[:20])
    assert len(set(large.tolist())) == 60
    assert pool.usable[large].all()
    assert set(Random().select(pool, 60, 4).rows.tolist()) != set(large.tolist())


def test_sources_restrict_the_draw() -> None:
    pool = make_pool()
    names = sorted({example.source for example in pool.examples})
    few = [example.source == names[0] for example in pool.examples]
    k = int((pool.usable & few).sum())
    rows = Random(sources=names[:1]).select(pool, k, 0).rows
    np.testing.assert_array_equal(np.sort(rows), np.flatnonzero(pool.usable & few))
    with pytest.raises(UserError, match=rf"have {k:,} usable rows; the budget asks for {k + 1:,}"):
        Random(sources=names[:1]).select(pool, k + 1, 0)
    with pytest.raises(UserError, match=r"got \['gqq'\]; choices: .*" + names[0]):
        Random(sources=["gqq"]).select(pool, 1, 0)
