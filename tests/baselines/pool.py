"""A pool in memory: what a method sees, without a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from baselines.coido import CoIdo
from baselines.icons import Icons
from baselines.less import Less
from baselines.magic import Magic
from baselines.mix_to_max import MixToMax
from baselines.presel import PreSel
from baselines.rds import Rds
from baselines.self_filter import SelfFilter
from baselines.tive import Tive
from coincide.features.signals.clip_image import ClipImage
from coincide.features.signals.clip_text import ClipText
from coincide.features.signals.gradients import Gradients
from coincide.features.signals.grand import GradientNorm
from coincide.features.signals.hidden_last import HiddenLast
from coincide.features.signals.hidden_mean import HiddenMean
from coincide.features.signals.hidden_weighted import HiddenWeighted
from coincide.features.signals.picture_embedding import PictureEmbedding
from coincide.features.signals.token_scores import TokenScores
from coincide.features.signals.token_scores_blind import TokenScoresBlind
from coincide.features.signals.token_scores_unasked import TokenScoresUnasked
from coincide.features.signals.token_spectrum import TokenSpectrum
from coincide.features.signals.visual_attended import VisualAttended
from coincide.features.signals.visual_mean import VisualMean
from coincide.ops.kmeans import spherical_kmeans
from coincide.schema import (
    AdaptedSignal,
    Checkpoint,
    Clustering,
    Clusters,
    Example,
    Signal,
    SubsetOf,
    TargetRows,
    Targets,
    TunedSignal,
    Turn,
    WarmUp,
)

TEXT_ONLY_EVERY, EMPTY_EVERY, BROKEN_EVERY = 7, 41, 29


@dataclass
class MemoryPool:
    examples: Sequence[Example]
    usable: np.ndarray
    signals: Mapping[Signal, np.ndarray]
    found: dict[Clustering, Clusters] = field(default_factory=dict)
    difficulties: Mapping[Any, np.ndarray] = field(default_factory=dict)
    target_rows: Mapping[Targets, TargetRows] = field(default_factory=dict)
    subsets: dict[SubsetOf, np.ndarray] = field(default_factory=dict)
    tuned_signals: dict[TunedSignal, np.ndarray] = field(default_factory=dict)

    def signal(self, signal: Signal) -> np.ndarray:
        return self.signals[signal]

    def difficulty(self, difficulty: Any) -> np.ndarray:
        return self.difficulties[difficulty]

    def targets(self, targets: Targets) -> TargetRows:
        return self.target_rows[targets]

    def subset(self, subset: SubsetOf) -> np.ndarray:
        return self.subsets[subset]

    def tuned(self, tuned: TunedSignal) -> np.ndarray:
        return self.tuned_signals[tuned]

    def warmup(self, warmup: WarmUp) -> list[Checkpoint]:
        """Its rate falls."""
        return [Checkpoint(share, i, i, 1.0 / (1 + i)) for i, share in enumerate(warmup.at)]

    def scored(self, method: Any, seed: int) -> Mapping[str, np.ndarray]:
        """Made afresh; the pipeline keeps it as an artifact."""
        return method.score(self, seed)

    def clusters(self, clustering: Clustering) -> Clusters:
        """Spherical k-means of the usable rows that have a value."""
        if clustering not in self.found:
            values = self.signals[clustering.signal]
            rows = np.flatnonzero(self.usable & ~np.isnan(values).any(axis=1))
            centroids, found = spherical_kmeans(
                self.signals[clustering.signal][rows], clustering.clusters, 20, clustering.seed
            )
            assignment = np.full(len(self.usable), -1, np.int32)
            assignment[rows] = found
            self.found[clustering] = Clusters(centroids, assignment)
        return self.found[clustering]

    def permuted(self, order: np.ndarray) -> MemoryPool:
        """The same pool with row ``order[i]`` at place i, clusterings and all."""
        return MemoryPool(
            [self.examples[i] for i in order],
            self.usable[order],
            {signal: values[order] for signal, values in self.signals.items()},
            {
                clustering: Clusters(clusters.centroids, clusters.assignment[order])
                for clustering, clusters in self.found.items()
            },
            {need: values[order] for need, values in self.difficulties.items()},
            self.target_rows,
        )


def example(row: int) -> Example:
    image = row % TEXT_ONLY_EVERY != 0
    question = f"{'<image> ' if image else ''}what is {row}?"
    turns = (Turn("human", question), Turn("gpt", "" if row % EMPTY_EVERY == 5 else f"it is {row}"))
    return Example(row, str(row), (f"{row // 3}.png",) if image else (), turns, f"s{row % 4}")


def make_pool(rows: int = 300, seed: int = 0) -> MemoryPool:
    """Clustered embeddings with duplicates, text-only rows, rows without answer, unusable rows."""
    rng = np.random.default_rng(seed)
    examples = [example(row) for row in range(rows)]
    usable = np.arange(rows) % BROKEN_EVERY != 3
    centres = 3 * rng.normal(size=(12, 24))
    x = centres[rng.integers(12, size=rows)] + rng.normal(size=(rows, 24))
    x[10:20] = x[0 : len(x[10:20])]
    scores = np.stack(
        [rng.uniform(0, 1.4, rows), rng.uniform(-1, 1, rows), rng.exponential(size=rows)], axis=1
    )
    empty = np.array([not e.turns[1].text for e in examples])
    scores[empty] = np.nan
    tokens = np.where(empty, 0, rng.integers(1, 9, rows))
    image, text = (unit(x @ rng.normal(size=(24, 12))) for _ in range(2))
    no_image = np.array([not e.images for e in examples])
    image[no_image] = np.nan
    difficulty = rng.normal(size=rows)
    difficulty[no_image | empty] = np.nan
    more = _of_today(rows, x, empty, no_image, np.where(empty, np.nan, scores[:, 2]))
    reference = PreSel().needs()[1]
    assert isinstance(reference, SubsetOf)
    learnt = np.flatnonzero(usable & ~no_image & ~empty)[::17]
    losses = np.full((rows, 4), np.nan, np.float32)
    losses[learnt, 2] = scores[learnt, 2] * (1 + learnt % 4)
    unasked = np.full((rows, 1), np.nan, np.float32)
    unasked[learnt, 0] = 4 * scores[learnt, 2]
    glance = np.random.default_rng(seed + 1)
    bridge, neurons = MAGIC.needs()[2:]
    visual = np.where(no_image[:, None], 0, 2 * x + glance.normal(size=x.shape))
    numbers = glance.integers(0, 6, (rows, 2, 4)) + np.arange(4) * 6
    signals, tuned, targets = of_gradients(x, usable)
    return MemoryPool(
        examples,
        usable,
        {
            **more,
            **signals,
            HiddenLast(): (5 * x).astype(np.float16),
            HiddenMean(): (5 * x + rng.normal(size=x.shape)).astype(np.float16),
            TokenScores(): np.column_stack([scores, tokens]).astype(np.float32),
            ClipImage(): image,
            ClipText("dialogue"): text,
            VisualMean(): visual.astype(np.float16),
            VisualAttended(): visual.astype(np.float32),
            HiddenWeighted(): (5 * x).astype(np.float16),
            bridge: np.where(no_image | empty, np.nan, glance.random(rows))[:, None],
            neurons: numbers.reshape(rows, 8).astype(np.float32),
        },
        difficulties={
            method.needs()[2]: difficulty.astype(np.float32) for method in (SelfFilter(), CoIdo())
        },
        subsets={reference: learnt},
        tuned_signals={
            TunedSignal(reference, TokenScores()): losses,
            TunedSignal(reference, TokenScoresUnasked()): unasked,
            **tuned,
        },
        target_rows={Rds().needs()[1]: target_rows(x, glance), **targets},
    )


GRADIENT_METHODS = (Icons(), Less(), Tive(), MixToMax())


def of_gradients(
    x: np.ndarray, usable: np.ndarray
) -> tuple[dict[Signal, np.ndarray], dict[TunedSignal, np.ndarray], dict[Targets, TargetRows]]:
    """What the methods that select by gradients need: unit rows and lengths, those of a part of the
    rows, and those of target rows of three tasks.
    """
    signals: dict[Signal, np.ndarray] = {}
    tuned: dict[TunedSignal, np.ndarray] = {}
    targets: dict[Targets, TargetRows] = {}
    for method in GRADIENT_METHODS:
        for number, need in enumerate(method.needs()):
            rng = np.random.default_rng([3, number])
            match need:
                case AdaptedSignal():
                    signals[need] = _gradient(need, x, rng)
                case TunedSignal(_, AdaptedSignal() as signal):
                    part = np.arange(len(x)) % 5 == 1
                    values = _gradient(signal, x, np.random.default_rng(3))
                    tuned[need] = np.where((part & usable)[:, None], values, np.nan)
                case Targets(AdaptedSignal() as signal):
                    few = x[(5 + 25 * np.arange(12)) % len(x)]
                    found = target_rows(few, rng)
                    targets[need] = TargetRows(found.examples, _gradient(signal, few, rng),
                                               found.usable)  # fmt: skip
    return signals, tuned, targets


def _gradient(signal: Signal, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if not isinstance(signal, Gradients):
        return rng.exponential(size=(len(x), 1)).astype(np.float32)
    mixed = x @ np.random.default_rng(8).normal(size=(x.shape[1], 16))
    return unit(mixed + rng.normal(size=mixed.shape)).astype(np.float16)


def _of_today(
    rows: int, x: np.ndarray, empty: np.ndarray, no_image: np.ndarray, nll: np.ndarray
) -> dict[Signal, np.ndarray]:
    """Signals of the methods of 2026; pictures are shared by rows, and so is what is of them."""
    rng = np.random.default_rng(77)
    blind, unasked = (nll + rng.exponential(size=rows) - 0.3 for _ in range(2))
    blind[no_image] = nll[no_image]
    shown = unit(x[np.arange(rows) // 3 * 3] @ rng.normal(size=(24, 10)))
    shown[no_image] = np.nan
    return {
        GradientNorm(): np.where(empty, np.nan, rng.exponential(size=rows))[:, None].astype(
            np.float32
        ),
        TokenScoresBlind(): blind[:, None].astype(np.float32),
        TokenScoresUnasked(): unasked[:, None].astype(np.float32),
        PictureEmbedding(): shown,
        ClipText("question"): unit(x @ rng.normal(size=(24, 12))),
        TokenSpectrum(): np.stack([rng.exponential(size=rows), rng.random(rows)], axis=1).astype(
            np.float32
        ),
    }


MAGIC = Magic(layers=(0, 1), neurons=(1, 2), stored=4)


def target_rows(x: np.ndarray, random: np.random.Generator) -> TargetRows:
    """Twelve rows like some of the pool, of two tasks; one of them is not usable."""
    values = 3 * x[(5 + 25 * np.arange(12)) % len(x)] + random.normal(size=(12, x.shape[1]))
    turns = (Turn("human", "what?"), Turn("gpt", "this"))
    examples = [Example(row, str(row), (), turns, f"task{row % 2}") for row in range(12)]
    return TargetRows(examples, values.astype(np.float16), np.arange(12) != 7)


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
