"""Mix-to-Max: shares of the sources by what they give each other; random rows inside.

1. The target is finetuned on ``warmup`` of the pool; then the gradients of another ``sample`` of
   the rows by the LoRA parameters: lengths, and sketches of unit length.
2. With ḡ_s the mean gradient of source s, the influence of s on t is <ḡ_s, ḡ_t> / |ḡ_t|²: by how
   much a step along s lowers the loss of t, measured by t's own step.
3. Net of s: mean over the other sources of what it gives less what it receives. A source gets the
   part softmax(net / ``temperature``) of the budget; rows inside are random.

From: "Mix-to-Max" (CVPR 2026 Findings), of which a reading note alone is public: influence between
sources from 5 % of the LoRA gradients, shares by given less received, random inside. The formulas
of 2 and 3 are ours, chosen so that given and received can differ, which a plain product does not
let them. A source of which no sampled row has a gradient has net 0.

Rows: text-only examples are rows of their source like all others (``keep``), or get their share at
random (``quota``). Rows without an answer are never selected.

Cost: two small parts of the pool: a finetuning on one, a forward and backward pass over the other.
``matched`` with ``method.of=coincide`` is the control for methods that choose rows; this method
chooses shares alone, and its control is ``random``.

Published (a reading note): 98.8 and 98.5 at 20 %, in 18.9 hours for 73.7, 8.2 times faster than
ICONS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from baselines.influence import check_share, warm_up
from baselines.pictures import sources_of
from baselines.quotas import apportion
from baselines.ranking import TEXT_ONLY, TextOnly, check_choice, check_positive, shares
from baselines.uniform import Random
from coincide.features.signals.gradient_length import GradientLength
from coincide.features.signals.gradients import Gradients
from coincide.ops.sketch import SketchKind
from coincide.schema import Need, Pool, Selection, SubsetOf, TunedSignal

SAMPLE_SEED = 4321
"""Of the rows whose gradients are taken: others than those of the warm-up."""


@dataclass(frozen=True)
class MixToMax:
    """Random rows, more from sources that help the others more than these help them."""

    warmup: float = 0.05
    sample: float = 0.05
    temperature: float = 1.0
    projection: SketchKind = "hashed"
    dimension: int = 8192
    recipe: Mapping[str, Any] | None = None
    text_only: TextOnly = "keep"
    name: str = "mix_to_max"
    uses_seed: ClassVar[bool] = True
    fixed_size: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice(self.name, "text_only", self.text_only, TEXT_ONLY)
        check_share(self.name, warmup=self.warmup, sample=self.sample)
        check_positive(self.name, temperature=self.temperature)

    def needs(self) -> Sequence[Need]:
        """Gradients of the sample: lengths and sketches."""
        return self._of_sample()

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """``k`` random rows with the shares of the sources."""
        share = shares(pool, np.ones(len(pool.examples), bool), k, self.text_only, seed)
        order = np.random.default_rng(seed).permutation(len(pool.examples))
        rows = order[share.candidates[order]]
        names, source = sources_of(pool.examples, rows)
        length, unit = (np.asarray(pool.tuned(need), np.float64) for need in self._of_sample())
        sampled = np.flatnonzero(~np.isnan(length[:, 0]))
        places = {name: number for number, name in enumerate(names)}
        mine = np.array([places.get(pool.examples[r].source, -1) for r in sampled.tolist()], int)
        net, influence = net_influence(
            length[sampled[mine >= 0]] * unit[sampled[mine >= 0]], mine[mine >= 0], len(names)
        )
        weight = np.exp((net - net.max(initial=-np.inf)) / self.temperature)
        room = np.bincount(source, minlength=len(names))
        quota = apportion(weight, room, share.k)
        turn = np.argsort(source, kind="stable")
        place = np.arange(len(rows)) - np.searchsorted(source[turn], source[turn])
        table = {"net": net, "weight": weight / weight.sum(), "rows": room, "quota": quota}
        pairs = [(s, t) for s in range(len(names)) for t in range(len(names))]
        return Selection(
            rows=np.concatenate([rows[turn[place < quota[source[turn]]]], share.text]),
            facts={"sampled": len(sampled), "text_only": self.text_only, **share.facts()},
            tables={
                "sources": {"source": names, **{n: v.tolist() for n, v in table.items()}},
                "influence": {
                    "of": [names[s] for s, _ in pairs],
                    "on": [names[t] for _, t in pairs],
                    "influence": influence.flatten().tolist(),
                },
            },
        )

    def _of_sample(self) -> tuple[TunedSignal, TunedSignal]:
        warmed = warm_up(self.warmup, [self.warmup], self.recipe)
        sample = SubsetOf(Random(), of_pool=self.sample, seed=SAMPLE_SEED)
        unit = Gradients(warmed, projection=self.projection, dimension=self.dimension)
        return TunedSignal(sample, GradientLength(warmed)), TunedSignal(sample, unit)


def net_influence(
    gradients: np.ndarray, source: np.ndarray, sources: int
) -> tuple[np.ndarray, np.ndarray]:
    """What each source gives the others less what it receives, float64 [S], and the influences
    [S, S] of the first on the second.

    ``gradients`` float64 [n, D] of rows whose sources are ``source`` int [n]. A source without rows
    gives and receives nothing.
    """
    means = np.zeros((sources, gradients.shape[1]))
    np.add.at(means, source, gradients)
    means /= np.bincount(source, minlength=sources).clip(1)[:, None]
    products = means @ means.T
    own = np.diagonal(products)
    influence = np.divide(products, own[None, :], out=np.zeros_like(products), where=own > 0)
    known = np.flatnonzero(own > 0)
    net = np.zeros(sources)
    if len(known) > 1:
        among = influence[np.ix_(known, known)]
        net[known] = (among.sum(axis=1) - among.sum(axis=0)) / (len(known) - 1)
    return net, influence
