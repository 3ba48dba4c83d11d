"""What a page shows besides the tables, as far as the store has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coincide.ledger.evidence import ArtifactShelf
from coincide.report.drill import drill
from coincide.report.gallery import TEXTS, gallery
from coincide.report.influences import influences
from coincide.report.overlap import Overlaps, overlaps
from coincide.report.pairs import Pairs, compare_all
from coincide.report.pictures import Budget
from coincide.report.records import Panel

SAMPLE_PICTURES = 3_000_000
CLUSTER_PICTURES = 3_000_000
INFLUENCE_PICTURES = 2_000_000
"""Bytes of pictures on a page, over all panels; the whole page then stays below 14 MB."""


@dataclass(frozen=True)
class Exhibit:
    """Comparisons, overlaps, samples and clusters of one panel."""

    pairs: Pairs
    overlaps: Overlaps
    samples: dict[str, Any] | None
    """JSON for the page's script, see ``coincide.report.drill``; None without a store."""
    clusters: dict[str, Any] | None
    """JSON for the page's script, see ``coincide.report.gallery``; None without any."""
    influences: Sequence[dict[str, Any]] = ()
    """Of samples that were looked at, see ``coincide.report.influences``."""


def exhibit(panel: Panel, shelf: ArtifactShelf, panels: int = 1) -> Exhibit:
    """The exhibit of ``panel``; the pictures' bytes are divided evenly among ``panels`` of them."""
    pairs = compare_all(panel, shelf)
    samples = clusters = None
    found: Sequence[dict[str, Any]] = ()
    if shelf.root is not None:
        samples = drill(panel, shelf, Budget(SAMPLE_PICTURES // panels))
        samples["pairs"] = _spoken(pairs)
        clusters = gallery(panel, shelf, Budget(CLUSTER_PICTURES // panels), TEXTS // panels)
        found = influences(panel, shelf, Budget(INFLUENCE_PICTURES // panels))
    return Exhibit(pairs, overlaps(panel, shelf), samples, clusters, found)


def _spoken(pairs: Pairs) -> dict[str, dict[str, list[Any]]]:
    """``i,j`` -> benchmark ("" over all) -> [mean, low, high, verdict]."""
    found: dict[str, dict[str, list[Any]]] = {}
    for pair in dict.fromkeys([*pairs.overall, *pairs.by_benchmark]):
        each = dict(pairs.by_benchmark.get(pair, {}))
        if pair in pairs.overall:
            each[""] = pairs.overall[pair]
        found[f"{pair[0]},{pair[1]}"] = {
            name: [*(float(f"{v:.4g}") for v in (d.mean, d.low, d.high)), d.verdict]
            for name, d in each.items()
        }
    return found
