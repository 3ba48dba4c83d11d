"""Overlap between subsets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from baselines.from_file import FromFile
from coincide.ledger.evidence import ArtifactShelf
from coincide.report.compare import panels
from coincide.report.overlap import expected_share, how_often, overlap, overlaps, products
from coincide.report.views import overlap_matrix
from coincide.schema import Example, Turn
from tests.baselines.pool import MemoryPool
from tests.report.fixture import result
from tests.report.shelf import fill


def test_overlap_counts() -> None:
    found = overlap(np.array([1, 2, 3, 4]), np.array([3, 4, 5]))
    assert (found.shared, found.jaccard, found.share) == (2, 2 / 5, 2 / 3)
    assert expected_share(800, 400, 4000) == pytest.approx(0.2)


@pytest.mark.parametrize("dtype", [np.int64, np.uint32])
def test_rows_in_common_are_counted_for_all_pairs_at_once(dtype: type) -> None:
    rng = np.random.default_rng(0)
    ends = (10, 40_000, 100_000, 300_000)
    groups = [
        [np.unique(rng.integers(0, end, 900)).astype(dtype) for _ in range(seeds)]
        for end, seeds in zip(ends, (1, 300, 3, 2), strict=True)
    ]
    groups.append([np.empty(0, dtype)])
    found = products([how_often(group) for group in groups])
    for i, first in enumerate(groups):
        for j, second in enumerate(groups):
            assert found[i, j] == sum(overlap(a, b).shared for a in first for b in second)
    assert products([]).shape == (0, 0)


def test_a_published_subset_stands_in_the_report_with_its_overlap(tmp_path: Path) -> None:
    """A paper's file of chosen rows, in LLaVA json without row numbers, against our own run."""
    runs = [result(m, 0, (70.0, 50.0, 80.0), budget=b) for m, b in
            (("full", 1.0), ("coincide", 0.01), ("from_file", 0.01))]  # fmt: skip
    runs = fill(tmp_path, runs)
    shelf = ArtifactShelf(tmp_path)
    ours = shelf.rows(runs[1])
    assert ours is not None
    said = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "It."}]
    records = [{"id": f"a{i}", "conversations": said, "split": "train"} for i in range(4000)]
    others = np.setdiff1d(np.arange(4000), ours)[:10]
    picked = np.concatenate([ours[:30], others])
    (tmp_path / "paper.json").write_text(json.dumps([records[i] for i in picked]))
    turns = (Turn("human", "What?"), Turn("gpt", "It."))
    examples = [Example(i, f"a{i}", (), turns, "") for i in range(4000)]
    pool = MemoryPool(examples, np.ones(4000, bool), {})
    rows = FromFile(str(tmp_path / "paper.json")).select(pool, 40, 0).rows
    assert sorted(rows.tolist()) == sorted(picked.tolist())
    np.save(tmp_path / runs[2].keys["subset"] / "rows.npy", np.sort(rows))
    panel = panels(runs)[0]
    found = overlaps(panel, ArtifactShelf(tmp_path))
    assert [*found.share.values()] == [30 / 40] and [*found.jaccard.values()] == [30 / 50]
    matrix = overlap_matrix(panel, found)
    assert matrix is not None
    assert {row["label"] for row in matrix["rows"]} == {"coincide (released), 1%", "from_file, 1%"}
