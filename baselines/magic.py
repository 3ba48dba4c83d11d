"""MAGIC: rows whose answer gains by the image and looks at it, spread over what they excite.

1. Gain g_i: loss of the answers without the image minus loss with it, nats a token.
2. Bridging b_i: what the answer tokens attend to in the image, times how pointedly
   (``coincide.features.signals.bridging``), mean over the layers.
3. Signature φ_i: in each layer the most active feed-forward neurons over the answer
   (``coincide.features.signals.neurons``), a set; 1, 1, 2 and 3 of them in the four layers.
4. ĝ and b̂: (x - median) / (interquartile range), cut at ±3; q = (ĝ + b̂) / 2.
5. E: the ``eligible`` 60 % of largest g; S: the min(2 k, |E|) of largest q in E; rows of S with one
   signature are a bucket B_j, of mass m_j = sum exp(q / τ), p = m / sum m.
6. A bucket gives its n_j = min(|B_j|, ceil(0.05 k), floor(k p_j)) rows of largest q; what is left
   goes, one each, to buckets with room by the fraction of k p_j that was lost; then by q to the
   rest of S and, after that, of E. How many rows each stage gave is in the manifest.

From: MAGIC (arXiv 2605.26004), by its text; no code is public. Not settled there, and ours: the
normaliser; activity signed; a neuron is an input of ``down_proj``; the tokens of an image are
removed for "without"; leftovers keep to the caps; queries of bridging are the answer tokens
themselves. It names TinyLLaVA-2B as reference in one place, LLaVA-1.5's stage 1 in another. Its
layers 8, 12, 16 and 20 are the last four of TinyLLaVA-2B's here (7, 11, 15, 19 from 0).

Signatures are equal seldom: floor(k p_j) is mostly 0, and the later stages choose. Where E is
smaller than the budget, the best of the other rows fill it.

Rows: text-only examples gain nothing by an image that they lack; they get their share at random
(``quota``) or are left out (``drop``). Rows without an answer are never selected.

Cost: two passes, the second without images; attention weights of four blocks for the answer tokens.
MAGIC counts 10 GPU hours for LLaVA-665K.

Published, LLaVA-665K 20 % on LLaVA-1.5-7B: Rel. 101.0 by its own table, 100.3 as printed there; the
default setting appears in it with two different scores on one benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from baselines.ranking import check_choice, check_positive, shares
from baselines.visnec import NLL, necessity
from coincide.data.columns import pictured
from coincide.features.signals.bridging import Bridging
from coincide.features.signals.neurons import Neurons
from coincide.features.signals.token_scores import TokenScores
from coincide.features.signals.token_scores_blind import TokenScoresBlind
from coincide.schema import Need, Pool, Selection, UserError

STAGES = ("quota", "leftover", "backfill", "eligible", "others")
"""Where a row came from, in this order."""


def robust_z(x: np.ndarray) -> np.ndarray:
    """(x - median) / interquartile range, cut at ±3; a range of zero divides by 1."""
    low, middle, high = np.quantile(x, (0.25, 0.5, 0.75))
    return np.clip((x - middle) / (high - low or 1.0), -3.0, 3.0)


def signatures(numbers: np.ndarray, counts: Sequence[int], stored: int) -> np.ndarray:
    """Bucket of each row, int64 [n], from 0: equal where in every layer the first ``counts`` of its
    ``stored`` neurons (``numbers`` [n, layers * stored]) are the same set.
    """
    parts = [
        np.sort(numbers[:, layer * stored : layer * stored + count], axis=1)
        for layer, count in enumerate(counts)
    ]
    _, bucket = np.unique(np.concatenate(parts, axis=1), axis=0, return_inverse=True)
    return np.asarray(bucket, np.int64).reshape(-1)


def choose(
    gain: np.ndarray, quality: np.ndarray, bucket: np.ndarray, k: int, *,
    eligible: float = 0.6, temperature: float = 0.2, cap: float = 0.05,
) -> tuple[np.ndarray, dict[str, int]]:  # fmt: skip
    """Places of ``k`` of n rows, int64, in the order chosen, and how many came from each stage.

    ``gain`` and ``quality`` float [n]; ``bucket`` int [n]. Ties go to the lowest place.
    """
    n = len(gain)
    by_quality = np.lexsort((np.arange(n), -quality))
    rank = np.empty(n, np.int64)
    rank[by_quality] = np.arange(n)
    able = np.lexsort((np.arange(n), -gain))[: int(np.ceil(eligible * n - 1e-9))]
    able = able[np.argsort(rank[able], kind="stable")]
    short = able[: 2 * k]
    given = _of_buckets(quality[short], bucket[short], k, temperature, cap)
    taken = [short[part] for part in given]
    for line in (short, able, by_quality):
        left = k - sum(map(len, taken))
        taken.append(line[~np.isin(line, np.concatenate(taken))][:left])
    counts = {stage: len(part) for stage, part in zip(STAGES, taken, strict=True)}
    return np.concatenate(taken), counts


def _of_buckets(
    quality: np.ndarray, bucket: np.ndarray, k: int, temperature: float, cap: float
) -> tuple[np.ndarray, np.ndarray]:
    """Places, best first, that the buckets' quotas give, and those that the lost fractions add.

    Rows come by descending ``quality``.
    """
    if not len(bucket):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    _, mine = np.unique(bucket, return_inverse=True)
    sizes = np.bincount(mine)
    weight = np.exp((quality - quality.max()) / temperature)
    share = k * np.bincount(mine, weights=weight) / weight.sum()
    most = np.minimum(sizes, int(np.ceil(cap * k - 1e-9)))
    quota = np.minimum(most, np.floor(share).astype(np.int64))
    room = np.flatnonzero(quota < most)
    room = room[np.lexsort((room, -(share - np.floor(share))[room]))]
    more = np.zeros_like(quota)
    more[room[: k - int(quota.sum())]] = 1
    grouped = np.argsort(mine, kind="stable")
    turn = np.empty(len(mine), np.int64)
    turn[grouped] = np.arange(len(mine)) - np.searchsorted(mine[grouped], mine[grouped])
    first = turn < quota[mine]
    second = ~first & (turn < (quota + more)[mine])
    return np.flatnonzero(first), np.flatnonzero(second)


@dataclass(frozen=True)
class Magic:
    """Gain and bridging, spread over signatures of neurons."""

    layers: Sequence[int]
    neurons: Sequence[int] = (1, 1, 2, 3)
    stored: int = 64
    eligible: float = 0.6
    temperature: float = 0.2
    cap: float = 0.05
    text_only: Literal["quota", "drop"] = "quota"
    name: str = "magic"
    fixed_size: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "neurons", tuple(self.neurons))
        object.__setattr__(self, "layers", tuple(self.layers)[-len(self.neurons) :])
        check_choice(self.name, "text_only", self.text_only, ("quota", "drop"))
        check_positive(
            self.name, temperature=self.temperature, cap=self.cap, eligible=self.eligible
        )
        if len(self.layers) != len(self.neurons) or not all(
            0 < count <= self.stored for count in self.neurons
        ):
            raise UserError(
                f"method.neurons: got {list(self.neurons)} for the layers {list(self.layers)} of "
                f"{self.name}; expected a count for each of the last layers, each from 1 to "
                f"method.stored={self.stored}"
            )

    @property
    def uses_seed(self) -> bool:
        """Only the quota of text-only rows is drawn."""
        return self.text_only == "quota"

    def needs(self) -> Sequence[Need]:
        """Losses with and without the image, attention to it, and the most active neurons."""
        return TokenScores(), TokenScoresBlind(), self._bridging(), self._neurons()

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """The ``k`` rows by the six steps, and the text-only share."""
        blind, seeing = pool.signal(TokenScoresBlind())[:], pool.signal(TokenScores())[:]
        gain, bridge = (
            necessity(blind[:, 0], seeing[:, NLL]),
            pool.signal(self._bridging())[:][:, 0],
        )
        images = pictured(pool.examples)
        share = shares(pool, images & ~np.isnan(gain + bridge), k, self.text_only, seed)
        rows = np.flatnonzero(share.candidates)
        score = np.full(len(pool.examples), np.nan, np.float32)
        chosen, counts = np.empty(0, np.int64), dict.fromkeys(STAGES, 0)
        if len(rows):
            quality = (
                robust_z(gain[rows].astype(float)) + robust_z(bridge[rows].astype(float))
            ) / 2
            score[rows] = quality
            numbers = pool.signal(self._neurons())[rows]
            bucket = signatures(numbers, self.neurons, self.stored)
            chosen, counts = choose(
                gain[rows], quality, bucket, share.k,
                eligible=self.eligible, temperature=self.temperature, cap=self.cap,
            )  # fmt: skip
        return Selection(
            rows=np.concatenate([rows[chosen], share.text]),
            scores=score,
            facts={
                "text_only": self.text_only,
                "buckets": int(bucket.max()) + 1 if len(rows) else 0,
                "chosen_by": counts,
                **share.facts(),
            },
        )

    def _bridging(self) -> Bridging:
        return Bridging(self.layers)

    def _neurons(self) -> Neurons:
        return Neurons(self.layers, self.stored)
