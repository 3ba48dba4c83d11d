"""PreSel: weights, typicality, quotas and shared pictures, against plain twins."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from baselines.presel import PreSel, Reference, candidate_rows, weights_of
from baselines.typicality import nearest_cosines
from coincide.features.signals.picture_embedding import PictureEmbedding
from coincide.schema import Example, SubsetOf, TunedSignal, Turn
from tests.baselines.pool import MemoryPool, unit


def made(rows: int = 240, shown: int = 3) -> MemoryPool:
    """Two sources; ``shown`` rows in a row show one picture; every tenth row has none."""
    rng = np.random.default_rng(5)
    examples = [
        Example(
            row, str(row), () if row % 10 == 9 else (f"{row // shown}.png",),
            (Turn("human", "<image>\nwhat?"), Turn("gpt", "it")), "ab"[row // (rows // 2)],
        )
        for row in range(rows)
    ]  # fmt: skip
    pictures = unit(rng.normal(size=(rows // shown + 1, 8)))
    x = pictures[np.arange(rows) // shown]
    x[[not e.images for e in examples]] = np.nan
    pool = MemoryPool(examples, np.ones(rows, bool), {PictureEmbedding(): x})
    return taught(pool, PreSel())


def taught(pool: MemoryPool, method: PreSel, k: int = 60) -> MemoryPool:
    """With the reference set of ``method`` and its losses: the question helps source b more."""
    reference = next(need for need in method.needs() if isinstance(need, SubsetOf))
    rows = np.sort(reference.method.select(pool, k // 3, reference.seed).rows)
    losses, unasked = (np.full((len(pool.examples), n), np.nan, np.float32) for n in (4, 1))
    unasked[rows] = 2.0
    losses[rows, 2] = [1.8 if pool.examples[row].source == "a" else 1.0 for row in rows.tolist()]
    asked, alone = (need for need in method.needs() if isinstance(need, TunedSignal))
    tuned = {asked: losses, alone: unasked}
    return replace(pool, subsets={reference: rows}, tuned_signals=tuned)


def test_weights_are_the_softmax_with_one_over_the_root_of_the_number_of_tasks() -> None:
    found = weights_of(np.array([0.5, 1.0, 0.75, 0.5]))
    expected = np.exp(-2 * np.array([0.5, 1.0, 0.75, 0.5]))
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-12)
    assert set(weights_of(np.full(5, 0.3)).tolist()) == {0.2}
    np.testing.assert_allclose(weights_of(np.array([0.2, np.nan, 0.2])), 1 / 3)
    np.testing.assert_allclose(weights_of(np.array([np.nan, np.nan])), 0.5)


def test_typicality_is_the_mean_cosine_to_the_nearest_of_the_cluster() -> None:
    x = np.random.default_rng(1).normal(size=(300, 6)).astype(np.float32)
    members = [np.arange(0, 200), np.arange(200, 203), np.array([203]), np.arange(0)]
    found = nearest_cosines(x, members, 5)
    u = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    for rows, cosines in zip(members, found, strict=True):
        for place, row in enumerate(rows.tolist()):
            others = sorted((float(u[row] @ u[o]) for o in rows.tolist() if o != row), reverse=True)
            np.testing.assert_allclose(cosines[place], others[:5], rtol=1e-9, atol=1e-12)


def test_the_reference_set_holds_whole_pictures_of_every_source_in_proportion() -> None:
    pool = made()
    rows = Reference().select(pool, 20, 1).rows
    assert len(set(rows.tolist())) == 20
    assert Counter(pool.examples[row].source for row in rows.tolist()) == {"a": 10, "b": 10}
    pictures = Counter(pool.examples[row].images for row in rows.tolist())
    whole = Counter(e.images for e in pool.examples if e.images)
    cut = [name for name, count in pictures.items() if count < whole[name]]
    assert len(cut) <= 2  # the last of each source
    assert set(rows.tolist()) != set(Reference().select(pool, 20, 2).rows.tolist())


def test_tasks_whose_questions_matter_get_more_and_the_budget_is_exact() -> None:
    pool, method = made(), PreSel(share=0.1)
    found = method.select(pool, 60, 0)
    table = found.tables["sources"]
    np.testing.assert_allclose(table["value"], [0.9, 0.5], rtol=1e-6)
    np.testing.assert_allclose(table["weight"], weights_of(np.array([0.9, 0.5])), rtol=1e-6)
    assert sum(table["quota"]) == 40 and found.facts["reference"] == 20
    assert table["quota"][1] > table["quota"][0]
    assert len(set(found.rows.tolist())) == 60
    reference = pool.subset(method.needs()[1])  # type: ignore[arg-type]
    assert set(reference.tolist()) <= set(found.rows.tolist())


def test_the_most_typical_pictures_of_a_cluster_come_first_with_all_their_rows() -> None:
    pool, method = made(), PreSel(share=0.05)
    found, scored = method.select(pool, 90, 0), method.score(pool, 0)
    reference = set(pool.subset(method.needs()[1]).tolist())  # type: ignore[arg-type]
    chosen = [row for row in found.rows.tolist() if row not in reference]
    clusters: dict[int, list[int]] = defaultdict(list)
    for row in np.flatnonzero(~np.isnan(scored["score"])).tolist():
        clusters[int(scored["cluster"][row])].append(row)
    for rows in clusters.values():
        taken = [row for row in rows if row in chosen]
        key = lambda r: (-scored["score"][r], scored["first"][r], r)  # noqa: E731
        assert sorted(taken, key=key) == sorted(rows, key=key)[: len(taken)]
    shown = {e.images for e in pool.examples if e.row in reference}
    assert not shown & {pool.examples[row].images for row in chosen}


def test_copies_of_a_picture_add_nothing_unless_rows_stand_for_themselves() -> None:
    once, copied = made(240, 1), made(240, 6)
    method = PreSel(share=0.05, unique_images=False)
    by_row = method.score(taught(copied, method), 0)["score"]
    of_one = PreSel(share=0.05).score(copied, 0)["score"]
    assert np.nanmax(by_row) == pytest.approx(1.0, abs=1e-6)  # its own copies are its neighbours
    assert np.nanmax(of_one) < 0.999
    assert np.nanmax(PreSel(share=0.05).score(once, 0)["score"]) < 0.999


def test_one_row_a_picture_is_the_first() -> None:
    pool = made()
    rows, first = candidate_rows(pool, True, "one")
    assert rows.tolist() == first.tolist()
    method = PreSel(rows_per_image="one", share=0.1)
    found = method.select(taught(pool, method, 30), 30, 0)
    images = [pool.examples[row].images for row in found.rows.tolist()]
    by_source = {(pool.examples[row].source, pool.examples[row].images) for row in found.rows}
    assert len(by_source) == len(images) == 30


def test_a_model_that_ignores_questions_gives_all_tasks_equal_weight() -> None:
    pool, method = made(), PreSel(share=0.1)
    one, other = (need for need in method.needs() if isinstance(need, TunedSignal))
    same = dict(pool.tuned_signals)
    same[one] = same[one].copy()
    same[one][:, 2] = same[other][:, 0]
    found = method.select(replace(pool, tuned_signals=same), 60, 0)
    assert found.tables["sources"]["weight"] == [0.5, 0.5]


GOLDEN = Path(__file__).parents[1] / "assets" / "golden" / "presel_N1040_s11.npz"


@pytest.mark.parametrize("number", [2, 3, 4])
def test_each_round_of_the_released_code_is_a_budget_here(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given its clusters and task values, ``quotas: released`` takes what the released code took;
    largest remainders move a few rows."""
    golden = np.load(GOLDEN)
    task, reference = golden["task"].astype(int), np.flatnonzero(golden["reference"])
    examples = [
        Example(row, str(row), (f"{row}.png",), (Turn("human", "<image>"), Turn("gpt", "it")),
                str(task[row]))
        for row in range(len(task))
    ]  # fmt: skip
    pool = MemoryPool(examples, np.ones(len(task), bool), {PictureEmbedding(): golden["x"]})
    offset = np.cumsum([0, *(golden["cluster"][task == t].max() + 1 for t in range(9))])
    cluster = golden["cluster"] + offset[task]
    chosen = {}
    for quotas in ("released", None):
        method = PreSel(quotas=quotas)  # type: ignore[arg-type]
        subset, asked, alone = method.needs()[1:]
        losses = np.full((len(task), 4), np.nan, np.float32)
        losses[reference, 2] = golden["difficulty"][task[reference]]
        unasked = np.where(golden["reference"], 1.0, np.nan).astype(np.float32)[:, None]
        given = replace(
            pool, subsets={subset: reference}, tuned_signals={asked: losses, alone: unasked}
        )  # type: ignore[dict-item]
        monkeypatch.setattr(PreSel, "_clusters", lambda self, pool, rows, first: cluster[rows])
        k = len(reference) + (number - 1) * (len(task) // 20)
        found = method.select(given, k, 0)
        chosen[quotas] = np.setdiff1d(found.rows, reference)
        if quotas:
            assert found.tables["sources"]["quota"] == golden["quota"][number - 2].tolist()
    expected = np.flatnonzero(golden["chosen"][number - 2])
    np.testing.assert_array_equal(chosen["released"], expected)
    assert len(chosen[None]) == len(expected)
    assert len(np.intersect1d(chosen[None], expected)) > 0.85 * len(expected)
