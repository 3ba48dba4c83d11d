"""Global batches: a permutation, grouped by modality, the same however they are split."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from train.sampler import (
    FILLER,
    epoch_permutations,
    global_batches,
    micro_batches,
    number_of_steps,
    plan,
    row_keys,
)


def mixture(images: int, texts: int, seed: int = 0) -> np.ndarray:
    text_only = np.array([False] * images + [True] * texts)
    np.random.default_rng(seed).shuffle(text_only)
    return text_only


@pytest.mark.parametrize("group", [True, False])
@pytest.mark.parametrize(
    ("images", "texts"), [(50, 13), (7, 3), (32, 16), (20, 0), (0, 20), (1, 1)]
)
def test_every_example_once(images: int, texts: int, group: bool) -> None:
    batches = global_batches(mixture(images, texts), 8, epoch_permutations(1, 0), group=group)
    assert sorted(i for batch in batches for i in batch) == list(range(images + texts))
    assert all(len(batch) == 8 for batch in batches[:-1])
    assert len(batches) == number_of_steps(images + texts, 8, 1, None)


@pytest.mark.parametrize(("images", "texts"), [(50, 13), (33, 17), (32, 16), (9, 40)])
def test_modalities_meet_only_at_the_end(images: int, texts: int) -> None:
    text_only = mixture(images, texts)
    batches = global_batches(text_only, 8, epoch_permutations(3, 0), group=True)
    mixed = [len(set(text_only[batch])) == 2 for batch in batches]
    left_over = sum((n - 1) % 8 + 1 for n in (images, texts))
    assert not any(mixed[: len(batches) - -(-left_over // 8)])


def test_modalities_are_interleaved() -> None:
    text_only = mixture(80, 80)
    batches = global_batches(text_only, 8, epoch_permutations(0, 0), group=True)
    kinds = [text_only[batch[0]] for batch in batches]
    assert sum(a != b for a, b in pairwise(kinds)) > 2


def test_without_grouping_modalities_mix() -> None:
    text_only = mixture(80, 80)
    batches = global_batches(text_only, 8, epoch_permutations(0, 0), group=False)
    assert sum(len(set(text_only[b])) == 2 for b in batches) > len(batches) / 2


def test_order_depends_on_seed_and_epoch_alone() -> None:
    text_only = mixture(50, 13)

    def of(seed: int, epoch: int) -> list[list[int]]:
        return global_batches(text_only, 8, epoch_permutations(seed, epoch), group=True)

    assert of(0, 0) == of(0, 0)
    assert of(0, 0) != of(1, 0)
    assert of(0, 0) != of(0, 1)


def test_plan_puts_epochs_in_a_row_and_stops() -> None:
    text_only = mixture(20, 5)
    whole = plan(text_only, 8, 7, epochs=3, group=True)
    assert whole[4:8] == global_batches(text_only, 8, epoch_permutations(7, 1), group=True)
    assert plan(text_only, 8, 7, epochs=3, group=True, max_steps=5) == whole[:5]
    assert len(whole) == number_of_steps(25, 8, 3, None) == 12


@pytest.mark.parametrize("size", [16, 11, 1])
@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_ranks_split_a_global_batch(size: int, world_size: int, micro_batch: int) -> None:
    lengths = np.arange(100)[::-1] % 7 + 1
    batch = list(range(30, 30 + size))
    shares = [
        micro_batches(
            batch,
            lengths,
            global_batch=16,
            micro_batch=micro_batch,
            rank=rank,
            world_size=world_size,
        )
        for rank in range(world_size)
    ]
    together = [row for share in shares for micro in share for row in micro]
    assert sorted(r for r in together if r != FILLER) == batch
    assert together.count(FILLER) == 16 - size
    assert {len(share) for share in shares} == {16 // (micro_batch * world_size)}
    assert {len(micro) for share in shares for micro in share} == {micro_batch}
    for step in range(len(shares[0])):
        rows = [r for share in shares for r in share[step] if r != FILLER]
        later = [r for share in shares for m in share[step + 1 :] for r in m if r != FILLER]
        assert not rows or not later or min(lengths[rows]) >= max(lengths[later])


def test_subsets_show_the_rows_that_they_share_in_one_order() -> None:
    rng = np.random.default_rng(0)
    pool, text_only = np.arange(500), mixture(440, 60)
    subsets = [np.sort(rng.choice(pool, 200, replace=False)) for _ in range(2)]
    shared = set(subsets[0].tolist()) & set(subsets[1].tolist())
    for group in (True, False):
        seen = []
        for rows in subsets:
            batches = plan(text_only[rows], 8, 3, epochs=2, group=group, rows=rows)
            assert sorted(i for batch in batches for i in batch) == sorted([*range(200)] * 2)
            assert len(batches) == number_of_steps(200, 8, 2, None)
            order = [int(rows[i]) for batch in batches for i in batch]
            seen.append([row for row in order[:184] if row in shared and not text_only[row]])
        common = [row for row in seen[0] if row in seen[1]]
        assert common == [row for row in seen[1] if row in seen[0]] and len(common) > 40
    once, again = (plan(text_only, 8, s, epochs=1, group=True, rows=pool) for s in (3, 4))
    assert once != again, "each seed has an order of its own"
    whole = plan(text_only, 8, 3, epochs=2, group=True, rows=pool)
    assert whole[:63] != whole[63:], "and each epoch"


def test_hashes_of_rows_are_different_and_spread_evenly() -> None:
    keys = row_keys(np.arange(10_000), 0, 0)
    assert len(set(keys.tolist())) == 10_000
    assert abs(keys.astype(float).mean() / 2**64 - 0.5) < 0.01
    assert (row_keys(np.arange(10), 1, 0) != row_keys(np.arange(10), 0, 1)).all()
