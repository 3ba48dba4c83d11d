"""Which examples make up each global batch, and which of them each rank takes.

The order is that of LLaVA's ``group_by_modality_length`` sampler (``llava_trainer.py``): examples
are shuffled within their modality and cut into global batches, the last ones of each modality are
put together at the end, and the other batches are shuffled. With the same permutations the global
batches equal LLaVA's (``tests/train/test_llava_recipe.py``). They depend on the seed alone, not on
world size or micro-batch; lengths only decide which rank computes what inside a global batch.

With ``order=rows`` a row's place follows from a hash of seed, epoch and its number in the dataset
(:func:`row_keys`) instead of a permutation of the subset: subsets that share rows show them in the
same relative order, so that what differs between two runs of one seed is their rows alone.

Two differences: the permutations come from an explicit seed, where LLaVA draws them from torch's
global generator; and an incomplete last batch is filled with rows that add nothing to the loss,
where accelerate repeats the first examples of the epoch, which then count twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

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


def row_keys(rows: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """uint64 [n]: a hash of seed, epoch and each of ``rows`` [n] (splitmix64), all different."""
    mixed = _mixed(_mixed(np.uint64(seed)) + np.uint64(epoch))
    return _mixed(mixed + rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def _mixed(value: Any) -> Any:
    """splitmix64's output function, a bijection of 64-bit numbers."""
    with np.errstate(over="ignore"):
        value = value + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def keyed_batches(
    text_only: np.ndarray, global_batch: int, keys: np.ndarray, *, group: bool
) -> list[list[int]]:
    """As :func:`global_batches`, the examples in the order of their ``keys`` uint64 [n], and whole
    batches of one modality in the order of their first examples.
    """
    order = np.argsort(keys, kind="stable")
    if not group or text_only.all() or not text_only.any():
        return _cut(order, global_batch)
    image, text = (_cut(order[text_only[order] == blind], global_batch) for blind in (False, True))
    pure = sorted(image[:-1] + text[:-1], key=lambda batch: keys[batch[0]])
    return pure + _cut(np.array(sorted(image[-1] + text[-1])), global_batch)


def plan(
    text_only: np.ndarray,
    global_batch: int,
    seed: int,
    *,
    epochs: int,
    group: bool,
    max_steps: int | None = None,
    rows: np.ndarray | None = None,
) -> list[list[int]]:
    """The global batches of the whole run, epoch after epoch.

    Arguments as for :func:`global_batches`; ``rows`` int64 [n]: the examples' numbers in the
    dataset, for ``order=rows``; None: permutations of the subset.
    """
    batches: list[list[int]] = []
    for epoch in range(epochs):
        if rows is None:
            permute = epoch_permutations(seed, epoch)
            batches += global_batches(text_only, global_batch, permute, group=group)
        else:
            keys = row_keys(rows, seed, epoch)
            batches += keyed_batches(text_only, global_batch, keys, group=group)
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
