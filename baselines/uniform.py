"""Random selection: uniform without replacement, nested over budgets for a seed.

Published, LLaVA-665K 20 % on LLaVA-1.5-7B: Rel. 95.8. A strong baseline: report it with seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from coincide.schema import Need, Pool, Selection


@dataclass(frozen=True)
class Random:
    """One permutation of the pool per seed; a budget takes its first k usable rows.

    The permutation is of all N rows, so a row that turns unusable does not move the others.
    """

    name: str = "random"
    uses_seed: ClassVar[bool] = True
    fixed_size: ClassVar[bool] = False

    def needs(self) -> Sequence[Need]:
        """Nothing."""
        return ()

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """The first k usable rows of the permutation that ``seed`` gives."""
        order = np.random.Generator(np.random.PCG64(seed)).permutation(len(pool.examples))
        order = order[pool.usable[order]]
        return Selection(order[:k])
