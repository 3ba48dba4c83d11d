"""Which examples make up each global batch, and which of them each rank takes.

The order is that of LLaVA's ``group_by_modality_length`` sampler (``llava_trainer.py``): examples
are shuffled within their modality and cut into global batches, the last ones of each modality are
put together at the end, and the other batches are shuffled. With the same permutations the global
batches equal LLaVA's (``tests/train/test_llava_recipe.py``). They depend on the seed alone, not on
world size or micro-batch; lengths only decide which rank computes what inside a global batch.

Two differences: the permutations come from an explicit seed, where LLaVA draws them from torch's
global generator; and an incomplete last batch is filled with rows that add nothing to the loss,
where accelerate repeats the first examples of the epoch, which then count twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

Permute = Callable[[int], np.ndarray]
"""n -> a permutation of ``range(n)``, int64 [n]; the source of randomness for the order."""

FILLER = -1
"""Index of a row that adds nothing to the loss; fills up the last batch of an epoch."""


def number_of_steps(examples: int, global_batch: int, epochs: int, max_steps: int | None) -> int:
    """Number of optimizer steps of a run."""
    steps = epochs * math.ceil(examples / global_batch)
    return steps if max_steps is None else min(steps, max_steps)


def global_batches(
    text_only: np.ndarray, global_batch: int, permute: Permute, *, group: bool
) -> list[list[int]]:
    """The global batches of one epoch: a permutation of ``range(n)`` cut into lists of
    ``global_batch``.

    ``text_only`` bool [n]. With ``group``, image and text-only examples share only the last batch,
    or the last two if both modalities leave more than half a batch. ``permute`` is called for the
    image examples, the text-only examples and the batches, in this order.
    """
    # one modality, or no grouping: a permutation cut into batches
    every = np.arange(len(text_only))
    if not group or text_only.all() or not text_only.any():
        return _cut(permute(len(every)), global_batch)
    # permute each modality by itself and cut it into batches
    image, text = (
        _cut(rows[permute(len(rows))], global_batch)
        for rows in (every[~text_only], every[text_only])
    )
    # all batches but the last of each modality are whole and of one modality: shuffle them
    pure = image[:-1] + text[:-1]
    shuffled = [pure[i] for i in permute(len(pure))]
    # the two last, incomplete ones are merged and come at the end
    return shuffled + _cut(np.array(sorted(image[-1] + text[-1])), global_batch)


def epoch_permutations(seed: int, epoch: int) -> Permute:
    """The source of permutations for one epoch of a run."""
    return np.random.default_rng((seed, epoch)).permutation


def plan(
    text_only: np.ndarray,
    global_batch: int,
    seed: int,
    *,
    epochs: int,
    group: bool,
    max_steps: int | None = None,
) -> list[list[int]]:
    """The global batches of the whole run, epoch after epoch.

    Arguments as for :func:`global_batches`.
    """
    batches: list[list[int]] = []
    for epoch in range(epochs):
        batches += global_batches(
            text_only, global_batch, epoch_permutations(seed, epoch), group=group
        )
    return batches[:max_steps]


def micro_batches(
    batch: Sequence[int],
    lengths: np.ndarray,
    *,
    global_batch: int,
    micro_batch: int,
    rank: int,
    world_size: int,
) -> list[list[int]]:
    """The micro-batches of ``rank``: its share of one global batch, filled up with ``FILLER``.

    ``lengths`` int [n] of all examples. In each micro-step all ranks get examples of similar
    length, long ones first: there is little padding, and no rank waits long for another.
    """
    ordered = sorted(batch, key=lambda i: (-lengths[i], i))
    ordered += [FILLER] * (global_batch - len(ordered))
    at_once = micro_batch * world_size
    return [
        ordered[start + rank : start + at_once : world_size]
        for start in range(0, global_batch, at_once)
    ]


def _cut(order: np.ndarray, size: int) -> list[list[int]]:
    return [order[start : start + size].tolist() for start in range(0, len(order), size)]
