"""Random selection: uniform without replacement; a seed's small budgets lie in its larger ones.

``sources`` restricts it to parts of the mixture. One source alone is a deliberately bad subset: a
control that an experiment must be able to tell from random before it can tell methods apart.

Published, LLaVA-665K 20 % on LLaVA-1.5-7B: Rel. 95.8. A strong baseline: report it with seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from coincide.data.columns import check_sources, sources
from coincide.schema import Example, Need, Pool, Selection, UserError


@dataclass(frozen=True)
class Random:
    """The first k usable rows of one permutation of the pool per seed.

    The permutation is of all N rows, so a row that becomes unusable does not change the others'
    order.
    """

    sources: Sequence[str] = ()
    """Draw only from these parts of the mixture; empty: from all."""
    name: str = "random"
    uses_seed: ClassVar[bool] = True
    fixed_size: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", tuple(self.sources))

    @property
    def names_data(self) -> bool:
        """Whether ``sources`` are given."""
        return bool(self.sources)

    def check_data(self, examples: Sequence[Example]) -> None:
        """Raises UserError for a source that no row has."""
        check_sources("method.sources", self.sources, examples)

    def needs(self) -> Sequence[Need]:
        """No signals."""
        return ()

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """The first ``k`` usable rows of the permutation that ``seed`` gives.

        Raises:
            UserError: a source is unknown, or the sources have fewer than ``k`` usable rows.
        """
        order = np.random.Generator(np.random.PCG64(seed)).permutation(len(pool.examples))
        order = order[(pool.usable & self._wanted(pool))[order]]
        if self.sources and len(order) < k:
            raise UserError(
                f"method.sources={list(self.sources)} have {len(order):,} usable rows; the budget "
                f"asks for {k:,}. Name more sources or lower the budget."
            )
        return Selection(order[:k], ranking=order)

    def _wanted(self, pool: Pool) -> np.ndarray:
        """bool [N]: rows of the wanted sources."""
        self.check_data(pool.examples)
        found = sources(pool.examples)
        wanted = np.array([not self.sources or name in self.sources for name in found.names], bool)
        return wanted[found.codes]
