"""Full data: every row. Needed once per model and dataset, as the denominator of Rel. (%).

Published, LLaVA-665K on LLaVA-1.5-7B: Rel. 100 by definition (LLaVA's own model-zoo row).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from coincide.schema import Need, Pool, Selection


@dataclass(frozen=True)
class Full:
    """Every usable row, whatever the budget; the report counts it as ``budget=1.0``."""

    name: str = "full"
    uses_seed: ClassVar[bool] = False
    fixed_size: ClassVar[bool] = True

    def needs(self) -> Sequence[Need]:
        """No signals."""
        return ()

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """All usable rows in file order."""
        return Selection(np.flatnonzero(pool.usable))
