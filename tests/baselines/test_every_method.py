"""What every baseline promises, whatever it computes."""

from __future__ import annotations

import numpy as np
import pytest

from baselines.clip_score import ClipScore
from baselines.coido import CoIdo
from baselines.d2_pruning import D2Pruning
from baselines.datatailor import DataTailor
from baselines.dics import Dics
from baselines.el2n import El2n
from baselines.grand import Grand
from baselines.icons import Icons
from baselines.ifd import Ifd
from baselines.length import Length
from baselines.less import Less
from baselines.mix_to_max import MixToMax
from baselines.onceselect import OnceSelect
from baselines.perplexity import Perplexity
from baselines.presel import PreSel
from baselines.prism import Prism
from baselines.rds import Rds
from baselines.scalselect import ScalSelect
from baselines.self_filter import SelfFilter
from baselines.self_sup import SelfSup
from baselines.semdedup import SemDeDup
from baselines.tive import Tive
from baselines.typiclust import TypiClust
from baselines.visnec import VisNec
from coincide.features.signals.hidden_last import HiddenLast
from coincide.schema import Method
from coincide.selection.stage import fill_to_budget
from tests.baselines.pool import MAGIC, make_pool

METHODS: list[Method] = [
    El2n(),
    Perplexity(direction="low"),
    SemDeDup(clusters=10),
    SemDeDup(clusters=10, keep="easy"),
    D2Pruning(),
    D2Pruning(mode="reference"),
    SelfSup(clusters=10),
    SelfSup(clusters=10, keep="easy"),
    El2n(text_only="quota"),
    SemDeDup(clusters=10, text_only="quota"),
    D2Pruning(text_only="drop"),
    ClipScore(),
    ClipScore(text_only="drop", direction="middle"),
    Length(text_only="quota"),
    Length(unit="tokens", direction="low", text_only="quota"),
    Grand(),
    TypiClust(clusters=10),
    TypiClust(clusters=10, text_only="quota"),
    Ifd(),
    Ifd(above_one="keep", text_only="quota"),
    Dics(clusters=10),
    Dics(clusters=None, text_only="keep", contribution="gain"),
    PreSel(text_only="quota", share=0.1),
    OnceSelect(steps=20, epochs=20),
    SelfFilter(),
    SelfFilter(text_only="drop"),
    SelfFilter(text_only="drop", negative="released"),
    Prism(),
    Prism(text_only="drop"),
    ScalSelect(),
    Rds(),
    Rds(turns="next", by="queries", text_only="quota"),
    VisNec(clusters=5),
    VisNec(clusters=5, minimum=0.0, text_only="drop"),
    MAGIC,
    Icons(),
    Icons(vote=0.3, text_only="drop"),
    Less(),
    Less(text_only="quota"),
    Tive(),
    MixToMax(),
    DataTailor(cluster_rows=15),
    CoIdo(),
    CoIdo(text_only="drop"),
]
UNNESTED = ("dics", "presel", "onceselect", "visnec", "magic", "icons", "datatailor", "coido")
"""Whose candidates, quotas or draws follow from the budget."""


def name(method: Method) -> str:
    return repr(method)


@pytest.mark.parametrize("method", METHODS, ids=name)
@pytest.mark.parametrize("k", [1, 50, 200])
def test_exactly_k_distinct_usable_rows_with_an_answer(method: Method, k: int) -> None:
    pool = make_pool()
    found = method.select(pool, k, 0)
    assert len(found.rows) == k
    rows, added = fill_to_budget(found, k, pool.usable, method.name)
    assert (len(rows), added) == (k, 0)
    assert all(pool.examples[row].turns[1].text for row in rows)
    if found.scores is not None:
        assert found.scores.dtype == np.float32
        assert found.scores.shape == (300,)


UNORDERED = ("datatailor",)
"""Whose own k-means starts from rows by their place."""


@pytest.mark.parametrize(
    "method", [m for m in METHODS if not m.uses_seed and m.name not in UNORDERED], ids=name
)
def test_the_order_of_the_rows_does_not_matter(method: Method) -> None:
    """A share drawn at random is drawn by row index, so methods with a seed are left out."""
    pool = make_pool()
    order = np.random.default_rng(9).permutation(300)
    # SemDeDup ties the first rows and copies of a row by row index: no ties among 200 of 300
    for k in (60, 150) if method.name != "semdedup" else (150,):
        here, there = method.select(pool, k, 0), method.select(pool.permuted(order), k, 0)
        x = pool.signal(HiddenLast())
        ours, theirs = set(here.rows.tolist()), set(order[there.rows].tolist())
        apart = (
            sorted(map(tuple, x[list(ours - theirs)])),
            sorted(map(tuple, x[list(theirs - ours)])),
        )
        assert apart[0] == apart[1]  # at most one copy stands for another


@pytest.mark.parametrize("method", [m for m in METHODS if m.name not in UNNESTED], ids=name)
def test_nested_over_budgets(method: Method) -> None:
    """Rankings by a score, and greedy picks, whose order does not depend on k."""
    pool = make_pool()
    small, large = (set(method.select(pool, k, 0).rows.tolist()) for k in (40, 130))
    assert small < large


@pytest.mark.parametrize("method", METHODS, ids=name)
def test_a_pool_with_too_few_rows_gives_what_it_has(method: Method) -> None:
    """The pipeline then refuses with the figures."""
    pool = make_pool()
    found = method.select(pool, 299, 0)
    assert len(found.rows) < 299
    assert len(set(found.rows.tolist())) == len(found.rows)


@pytest.mark.parametrize("method", METHODS, ids=name)
def test_the_seed_matters_only_where_it_says_so(method: Method) -> None:
    pool = make_pool()
    one, two = (set(method.select(pool, 100, seed).rows.tolist()) for seed in (0, 1))
    assert (one != two) == method.uses_seed
