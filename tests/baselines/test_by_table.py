"""DataTailor's formulas, mmSSR's rule and CoIDO's quotas, against plain twins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from baselines.coido import CoIdo
from baselines.datatailor import DataTailor, representativeness, uniqueness, value_of
from baselines.mmssr import MmSsr, in_rounds
from coincide.ops.scores import spectrum
from coincide.schema import UserError
from tests.baselines.pool import make_pool


def test_datatailors_parts_are_those_of_its_specification() -> None:
    rng = np.random.default_rng(0)
    z, a = rng.normal(size=(30, 5)), rng.random(30)
    cluster = np.array([0] * 17 + [1] * 12 + [2])
    centroids = rng.normal(size=(3, 5))
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    unique, like = uniqueness(z, a, cluster), representativeness(a, cluster, centroids)
    for row in range(30):
        mine = [j for j in range(30) if cluster[j] == cluster[row]]
        total = sum(np.linalg.norm(z[j] - z[k]) for j in mine for k in mine)
        weighted = sum(np.linalg.norm(z[row] - z[j]) * a[j] for j in mine)
        expected = weighted / (total / len(mine)) if total else 0.0
        assert unique[row] == pytest.approx(expected)
        others = [c for c in range(3) if c != cluster[row]]
        near = np.mean([np.exp(centroids[cluster[row]] @ centroids[c]) for c in others])
        assert like[row] == pytest.approx(a[row] * near)
    assert unique[29] == 0, "a row alone in its cluster"
    assert representativeness(a, np.zeros(30, int), centroids[:1]).tolist() == a.tolist()


def test_turns_weigh_informativeness() -> None:
    a, u, r = np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0]), np.array([1.0, 3.0, 2.0])
    found = value_of(a, u, r, np.array([1, 4, 1]))
    np.testing.assert_allclose(found, [(1 / 3 + 1 + 1 / 3) / 3, (4 * 2 / 3 + 2 / 3 + 1) / 6,
                                       (1 + 1 / 3 + 2 / 3) / 3])  # fmt: skip


def test_the_spectrum_of_a_rows_tokens_is_that_of_its_singular_values() -> None:
    for shape in ((7, 12), (12, 7), (1, 5)):
        x = torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        share = torch.linalg.svdvals(x)
        share = share / share.sum()
        expected = [float(-(share * share.log()).sum()), float(share.max())]
        np.testing.assert_allclose(spectrum(x).numpy(), expected, atol=1e-7)


def test_datatailor_gives_sources_by_size_and_largest_singular_value() -> None:
    pool = make_pool()
    found = DataTailor(cluster_rows=20).select(pool, 80, 0)
    table = {name: np.array(column) for name, column in found.tables["sources"].items()}
    weight = table["rows"] * table["largest"].astype(float) ** 2
    np.testing.assert_allclose(table["quota"] / 80, weight / weight.sum(), atol=0.02)
    for name, quota in zip(table["source"], table["quota"], strict=True):
        mine = [r for r in found.rows.tolist() if pool.examples[r].source == name]
        rest = [r for r in np.flatnonzero(~np.isnan(found.scores))
                if pool.examples[r].source == name and r not in mine]  # type: ignore[arg-type]  # fmt: skip
        assert len(mine) == quota
        assert min(found.scores[mine]) >= max(found.scores[rest])  # type: ignore[index]


def test_mmssrs_rounds_by_hand() -> None:
    """Two capabilities, three buckets: the smallest first, and what it cannot give goes on."""
    scores = np.array([[5, 0], [4, 0], [3, 1], [0, 2], [0, 5], [1, 4], [0, 0], [2, 2]], float)
    bucket = np.array([0, 0, 0, 1, 1, 2, 2, 0])
    places, given = in_rounds(scores, bucket, 4)
    # capability 0, two places: bucket 2 has one row (5), bucket 0 four (0 first)
    # capability 1, two places: bucket 1 (4) and bucket 0 (7); 5 is taken
    assert places.tolist() == [5, 0, 7, 4] and given.tolist() == [2, 2]
    everything, _ = in_rounds(scores, bucket, 8)
    assert sorted(everything.tolist()) == [0, 1, 2, 3, 4, 5, 7], (
        "a row without a score is not taken"
    )


@pytest.mark.parametrize("k", [7, 100])
def test_coido_gives_every_source_its_share_and_takes_the_hardest(k: int) -> None:
    pool, method = make_pool(), CoIdo(text_only="drop")
    difficulty = pool.difficulty(method.needs()[2])
    able = [r for r in np.flatnonzero(pool.usable).tolist()
            if pool.examples[r].images and pool.examples[r].turns[1].text]  # fmt: skip
    names = sorted({pool.examples[r].source for r in able})
    exact = {n: k * sum(pool.examples[r].source == n for r in able) / len(able) for n in names}
    quota = {n: int(exact[n]) for n in names}
    for n in sorted(names, key=lambda n: (quota[n] - exact[n], n))[: k - sum(quota.values())]:
        quota[n] += 1
    expected: set[int] = set()
    for n in names:
        mine = [r for r in able if pool.examples[r].source == n]
        expected |= set(sorted(mine, key=lambda r: (-difficulty[r], r))[: quota[n]])
    found = method.select(pool, k, 0)
    assert set(found.rows.tolist()) == expected
    assert (
        dict(zip(*(found.tables["sources"][c] for c in ("source", "quota")), strict=True)) == quota
    )


def test_coido_is_keyed_by_the_content_of_a_table_and_refuses_one_that_is_not_there(
    tmp_path: Path,
) -> None:
    one, same = (table(tmp_path / n, ["1,a,2"], "row,style,ocr") for n in ("a.csv", "b.csv"))
    assert CoIdo(scores=str(one)).key_config() == CoIdo(scores=str(same)).key_config()
    assert CoIdo(scores=str(one)).key_config() != CoIdo().key_config()
    with pytest.raises(UserError, match="no such file; expected a table with `row` or `id`"):
        CoIdo(scores=str(tmp_path / "none.csv"))
    with pytest.raises(UserError, match="of_pool"):
        CoIdo(of_pool=0)


def table(path: Path, lines: list[str], head: str = "row,style,ocr,counting") -> Path:
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


def test_mmssr_reads_a_table_of_any_judge_and_meets_the_budget(tmp_path: Path) -> None:
    pool = make_pool()
    rng = np.random.default_rng(0)
    lines = [f"{row},s{row % 3},{rng.integers(0, 6)},{rng.integers(0, 3)}" for row in range(280)]
    path = table(tmp_path / "scores.csv", lines)
    found = MmSsr(str(path)).select(pool, 60, 0)
    assert len(set(found.rows.tolist())) == 60 and found.rows.max() < 280
    assert sum(found.facts["by_capability"].values()) == 60
    by_id = table(tmp_path / "ids.csv", lines, "id,style,ocr,counting")
    assert MmSsr(str(by_id)).select(pool, 60, 0).rows.tolist() == found.rows.tolist()
    assert MmSsr(str(path)).key_config() == MmSsr(str(path)).key_config()
    large = MmSsr(str(path), text_only="quota").select(pool, 200, 0)
    assert len(set(large.rows.tolist())) <= 200


def test_a_table_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    pool = make_pool()
    wrong = {
        "twice": ["1,a,1,1", "1,b,2,2"],
        "below 0": ["1,a,1,-1"],
        "is missing": ["1,a,1,"],
        "whole numbers": ["900,a,1,1"],
        "ocr": ["1,a,much,1"],
    }
    for said, lines in wrong.items():
        with pytest.raises(UserError, match=said):
            MmSsr(str(table(tmp_path / "x.csv", lines))).select(pool, 5, 0)
    for head, said in (("row,kind,ocr", "style"), ("line,style,ocr", "`row` or `id`")):
        with pytest.raises(UserError, match=said):
            MmSsr(str(table(tmp_path / "x.csv", ["1,a,2"], head))).select(pool, 5, 0)
    with pytest.raises(UserError, match="of no row, or of several"):
        MmSsr(str(table(tmp_path / "x.csv", ["zz,a,2"], "id,style,ocr"))).select(pool, 5, 0)
    with pytest.raises(UserError, match="no such file"):
        MmSsr(str(tmp_path / "none.csv"))
