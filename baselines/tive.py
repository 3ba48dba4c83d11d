"""TIVE: more of the sources whose rows have long gradients, and in a source the most typical rows.

1. The target is finetuned on ``warmup`` of the pool, as many rows of each source as of the others;
   LoRA adapts the decoder's attention.
2. The gradient of every row's loss by the LoRA parameters: its length, and its sketch of unit
   length.
3. A source's weight is the mean length of its rows' gradients; its share of the budget is in
   proportion to the weight, whatever its size.
4. A row's value is the mean cosine of its gradient to those of all other rows of its source. Rows
   are drawn without replacement with probability softmax(``sharpness`` times value).

From: Liu et al. 2024 ("Less is More: High-value Data Selection for Visual Instruction Tuning"), by
a specification of its code: 8 %, 8,192 random signs, sharpness 0.001, TextCaps left out. Values lie
in [-1, 1], so that at 0.001 the largest and the smallest probability differ by 0.2 %: as released,
step 4 is uniform sampling, and the method is one of shares by gradient length (the facts of a run
name the ratio). ``sharpness`` is a setting for that reason.

Ours differs. Values take one product with the source's mean instead of n² products. Where a source
has fewer rows than its share, the code repeats rows; here every row is taken once and the rest goes
to the other sources. Draws have the run's seed. The code reads the gradient by the attention's LoRA
parameters alone; whether its warm-up adapts other linears as well is not known, here it does not
(``method.recipe={linears: all}`` adapts and reads all). The code trains the final model in full.

Rows: text-only examples are rows of their source like all others (``keep``, as released), or get
their share at random (``quota``). Rows whose gradient is zero or not finite are not usable.

Cost: a finetuning on 8 %, and one forward and backward pass over the pool.

Published: about all of LLaVA-665K at 15 %, on eight benchmarks (its abstract).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from baselines.influence import BLOCK, check_share, warm_up
from baselines.pictures import sources_of
from baselines.quotas import apportion
from baselines.ranking import TEXT_ONLY, TextOnly, check_choice, shares
from coincide.data.columns import check_sources
from coincide.features.signals.gradient_length import GradientLength
from coincide.features.signals.gradients import Gradients
from coincide.ops.products import as_float64
from coincide.ops.sketch import SketchKind
from coincide.schema import Example, Need, Pool, Selection, WarmUp


@dataclass(frozen=True)
class Balanced:
    """Random rows, as many of each source as of the others, as far as it has them."""

    name: str = "balanced"
    uses_seed: ClassVar[bool] = True
    fixed_size: ClassVar[bool] = False

    def needs(self) -> Sequence[Need]:
        """No signals."""
        return ()

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """The first rows of each source in one permutation of the pool."""
        order = np.random.default_rng(seed).permutation(len(pool.examples))
        order = order[pool.usable[order]]
        names, source = sources_of(pool.examples, order)
        counts = apportion(np.ones(len(names)), np.bincount(source, minlength=len(names)), k)
        taken = [order[source == number][:count] for number, count in enumerate(counts.tolist())]
        return Selection(np.concatenate(taken) if taken else np.empty(0, np.int64))


@dataclass(frozen=True)
class Tive:
    """Draws typical rows, more from sources of long gradients."""

    warmup: float = 0.08
    sharpness: float = 0.001
    without: Sequence[str] = ()
    projection: SketchKind = "hashed"
    dimension: int = 8192
    recipe: Mapping[str, Any] | None = None
    text_only: TextOnly = "keep"
    name: str = "tive"
    uses_seed: ClassVar[bool] = True
    fixed_size: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "without", tuple(self.without))
        check_choice(self.name, "text_only", self.text_only, TEXT_ONLY)
        check_share(self.name, warmup=self.warmup)

    @property
    def names_data(self) -> bool:
        """Whether sources are left out."""
        return bool(self.without)

    def check_data(self, examples: Sequence[Example]) -> None:
        """Raises UserError for a source in ``without`` that no row has."""
        check_sources("method.without", self.without, examples)

    def needs(self) -> Sequence[Need]:
        """The gradients' lengths and sketches."""
        return self._length(), self._signal()

    def score_config(self, seed: int) -> dict[str, Any]:
        """Nothing but the signals."""
        return {}

    def score(self, pool: Pool, seed: int) -> dict[str, np.ndarray]:
        """``score`` float32 [N]: mean cosine to the other rows of the source; NaN where a row is
        not usable.
        """
        rows = np.flatnonzero(pool.usable)
        names, source = sources_of(pool.examples, rows)
        found = np.full(len(pool.examples), np.nan, np.float32)
        found[rows] = mean_cosines(pool.signal(self._signal()), rows, source, len(names))
        return {"score": found}

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """``k`` rows drawn by source and value. Raises UserError for an unknown source in
        ``without``.
        """
        value = pool.scored(self, seed)["score"]
        self.check_data(pool.examples)
        allowed = np.array([e.source not in self.without for e in pool.examples])
        share = shares(pool, ~np.isnan(value) & allowed, k, self.text_only, seed)
        rows = np.flatnonzero(share.candidates)
        names, source = sources_of(pool.examples, rows)
        length = np.asarray(pool.signal(self._length())[rows], np.float64)[:, 0]
        room = np.bincount(source, minlength=len(names))
        weight = np.bincount(source, length, minlength=len(names)) / room.clip(1)
        quota = apportion(weight, room, share.k)
        # adding Gumbel noise to log-probabilities and sorting draws without replacement
        noise = np.random.default_rng(seed).gumbel(size=len(pool.examples))[rows]
        turn = self.sharpness * value[rows].astype(np.float64) + noise
        order = np.lexsort((rows, -turn, source))
        place = np.arange(len(rows)) - np.searchsorted(source[order], source[order])
        table = {"weight": weight, "rows": room, "quota": quota}
        spread = float(np.ptp(value[rows])) if len(rows) else 0.0
        return Selection(
            rows=np.concatenate([rows[order[place < quota[source[order]]]], share.text]),
            scores=np.where(share.candidates, value, np.float32(np.nan)),
            facts={
                "largest_probability_over_smallest": float(
                    np.exp(min(self.sharpness * spread, 700.0))
                ),
                "text_only": self.text_only,
                **share.facts(),
            },
            tables={"sources": {"source": names, **{n: v.tolist() for n, v in table.items()}}},
        )

    def _warmup(self) -> WarmUp:
        recipe = {"linears": "attention", **(self.recipe or {})}
        return warm_up(self.warmup, [self.warmup], recipe, method=Balanced())

    def _signal(self) -> Gradients:
        return Gradients(self._warmup(), projection=self.projection, dimension=self.dimension)

    def _length(self) -> GradientLength:
        return GradientLength(self._warmup())


def mean_cosines(x: Any, rows: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """float64 [n]: the mean product of each of ``rows`` of ``x`` (unit rows) with the others of its
    ``group`` int [n]; 0 for a row that is alone in it.
    """
    blocks = range(0, len(rows), BLOCK)
    sums = np.zeros((groups, x.shape[1]))
    for start in blocks:
        np.add.at(sums, group[start : start + BLOCK], as_float64(x[rows[start : start + BLOCK]]))
    others = np.bincount(group, minlength=groups) - 1
    found = np.zeros(len(rows))
    for start in blocks:
        part, mine = as_float64(x[rows[start : start + BLOCK]]), group[start : start + BLOCK]
        own = np.einsum("nd,nd->n", part, part)
        total = np.einsum("nd,nd->n", part, sums[mine])
        found[start : start + BLOCK] = (total - own) / others[mine].clip(1)
    found[others[group] == 0] = 0.0
    return found
