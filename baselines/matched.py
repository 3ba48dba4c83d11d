"""Matched: random rows with the source counts of another method's subset.

    method=matched method.of=coincide

The control that tells what a method owes to the parts of the mixture that it prefers from what it
owes to the rows that it picks inside them: as many rows of each source as the other method takes
for this budget and seed, drawn uniformly.

From: no table of papers has it; Mix-to-Max (CVPR 2026 Findings), whose whole method is shares by
source, shows that they may carry much of a method's gain.

How: the other subset is an artifact that is planned and built like any other, and shared with the
other method's own run. Each source has one permutation per seed, of which its first rows are taken:
nested over budgets where the other method's counts are. ``method.settings`` changes fields of the
other method, e.g. ``'method.settings={temperature: 0.2}'``. Of a method with a size of its own
(``from_file``) it has that size. Refused: ``matched`` of ``matched``, which is the same draw twice.

Rows: text-only examples are drawn like all others, as many as the other method took of their
source. Unusable rows are never drawn.

Cost: that of the other method, shared with its own run; the draw costs nothing.

Published: nothing. A method that does not beat its own control selects sources, not rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from coincide.data.columns import sources
from coincide.protocols import HasLabel
from coincide.schema import Need, Pool, Selection, SubsetOf, UserError
from coincide.selection.scoring import own_class
from coincide.selection.stage import method_config


@dataclass(frozen=True)
class Matched:
    """Random rows, as many of each source as ``other`` selects."""

    of: str
    """Name of the other method's YAML."""
    other: Any = None
    """The other method; ``run.py`` makes it from ``of`` and ``settings``."""
    settings: Mapping[str, Any] | None = None
    """Fields of the other method to change."""
    name: str = "matched"
    uses_seed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.other is None or isinstance(self.other, Matched):
            raise UserError(
                f"matched of {self.of!r}: expected in its field other the method whose counts it "
                "takes, as run.py makes it of method.of, e.g. coincide, and not matched itself."
            )

    @property
    def label(self) -> str:
        """The other method, for tables."""
        own = self.other.label if isinstance(self.other, HasLabel) else ""
        return f"{self.of}, {own}" if own else self.of

    @property
    def fixed_size(self) -> bool:
        """Whether the other method has a size of its own."""
        return bool(self.other.fixed_size)

    def key_config(self) -> dict[str, Any]:
        """What determines the other method's result."""
        other = {"name": self.other.name, **own_class(self.other)}
        return {"of": self.of, "rows_of": {**other, "params": method_config(self.other)}}

    def needs(self) -> Sequence[Need]:
        """The other method's subset."""
        return (SubsetOf(self.other),)

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """Random rows with the other subset's number of rows of each source."""
        others = pool.subset(SubsetOf(self.other))
        counts = sources(pool.examples).counts(others)
        rows = draw(pool, counts, seed)
        return Selection(rows, facts={"of": self.of, "counts": counts})


def draw(pool: Pool, counts: Mapping[str, int], seed: int) -> np.ndarray:
    """``counts[source]`` usable rows of each source, int64.

    They are the first ones in a permutation of the pool made with ``seed``.
    """
    order = np.random.default_rng(seed).permutation(len(pool.examples))
    order = order[pool.usable[order]]
    labels = sources(pool.examples)
    codes = labels.codes[order]
    wanted = np.array([counts.get(name, 0) for name in labels.names], np.int64)
    by_source = np.argsort(codes, kind="stable")
    begins = np.searchsorted(codes[by_source], np.arange(len(wanted)))
    place = np.empty(len(order), np.int64)
    place[by_source] = np.arange(len(order)) - begins[codes[by_source]]
    return order[place < wanted[codes]]
