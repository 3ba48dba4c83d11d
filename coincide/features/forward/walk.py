"""The rows of a shard in batches: encoded ahead, those of one picture together, the longest first,
and each value written at its row's place.
"""

from __future__ import annotations

import itertools
from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from coincide.config import FeaturePass
from coincide.features.engine.ahead import Ordered, groups_by_image
from coincide.features.forward import packed
from coincide.features.forward.contract import RowVariant
from coincide.features.forward.encoder import as_tensors
from coincide.models.encode import Encoded
from coincide.schema import Example

CPU_TOKENS = 2048
"""Most tokens of a batch on a CPU; larger batches exceed the caches and are slower."""
WINDOW = 256
"""Rows held ready on the CPU, so that a batch finds others of its length: 0.5 GB of TinyLLaVA's."""
EncodedRow = tuple[int, Mapping[RowVariant, Encoded]]
"""Place in the shard, and the row as each variant reads it; without a
blind variant where that is the whole row, which runs as well."""
Group = Sequence[EncodedRow]
"""Rows whose common beginning runs once (``coincide.features.forward.packed``), or one row."""


class RowRun(Protocol):
    """What computes the signals of a batch."""

    options: FeaturePass
    """Its limits of a batch; they may become smaller on the way."""

    @property
    def widths(self) -> list[int]:
        """Columns D of each signal."""
        ...

    def begin(self, images: Iterable[str]) -> None:
        """A new shard, whose rows show ``images``, with repetitions."""
        ...

    def groups(self, rows: Sequence[EncodedRow]) -> list[Group]:
        """``rows`` by what can run as one sequence."""
        ...

    def __call__(self, batch: Sequence[Group], examples: Sequence[Example]) -> list[np.ndarray]:
        """Values [B, D] of each signal for the rows of ``batch``."""
        ...


def compute_rows(
    examples: Sequence[Example], progress: Callable[[int], None], ordered: Ordered, forward: RowRun
) -> tuple[list[np.ndarray], np.ndarray]:
    """Values [n, D] of each signal for ``examples``, and which of them could be read, bool [n]."""
    values = [np.zeros((len(examples), columns)) for columns in forward.widths]
    valid = np.zeros(len(examples), dtype=bool)
    forward.begin(name for e in examples for name in e.images)
    groups = _groups(examples, ordered, forward.groups, progress)
    for batch in _batches(groups, lambda: forward.options):
        places = [place for group in batch for place, _ in group]
        valid[places] = True
        for whole, part in zip(values, forward(batch, examples), strict=True):
            whole[places] = part
        progress(len(places))
    return values, valid


def _groups(
    examples: Sequence[Example],
    ordered: Ordered,
    grouped: Callable[[Sequence[EncodedRow]], list[Group]],
    progress: Callable[[int], None],
) -> Iterator[Group]:
    """The usable rows, encoded, in the order computed: rows of one image together, the longest
    first, ``grouped`` by what can run as one sequence.
    """
    groups = groups_by_image(examples)
    tasks = [[examples[place].row for place in group] for group in groups]
    for group, rows in zip(groups, ordered(tasks), strict=True):
        found: list[EncodedRow] = [
            (place, {variant: as_tensors(each) for variant, each in arrays.items()})
            for place, arrays in zip(group, rows, strict=True)
            if arrays is not None
        ]
        progress(len(group) - len(found))
        yield from grouped(found)


def length_of(row: Mapping[RowVariant, Encoded]) -> int:
    """Tokens of the longest variant."""
    return max(len(encoded.input_ids) for encoded in row.values())


def tokens_of(group: Group) -> int:
    """Tokens that ``group`` takes of a batch: what its rows begin with counts once."""
    longest = max(length_of(row) for _, row in group)
    if len(group) == 1:
        return longest
    return max(longest, packed.packed_length([row["whole"] for _, row in group]))


def halves(batch: Sequence[Group]) -> tuple[Sequence[Group], Sequence[Group]]:
    """``batch`` in two parts; of a single group its rows."""
    if len(batch) == 1:
        rows = batch[0]
        return [rows[: len(rows) // 2]], [rows[len(rows) // 2 :]]
    return batch[: len(batch) // 2], batch[len(batch) // 2 :]


def _batches(groups: Iterator[Group], options: Callable[[], FeaturePass]) -> Iterator[list[Group]]:
    """``groups`` in batches of similar length: at most ``batch_size`` rows and ``batch_tokens``
    with padding.

    Up to ``WINDOW`` groups are held; each batch takes the longest of them, then the window is
    refilled.
    """
    held: list[Group] = []
    for group in groups:
        insort(held, group, key=_longest_first)
        if len(held) >= max(WINDOW, options().batch_size):
            yield _taken(held, options())
    while held:
        yield _taken(held, options())


def _longest_first(group: Group) -> tuple[int, int]:
    return -tokens_of(group), group[0][0]


def _taken(held: list[Group], options: FeaturePass) -> list[Group]:
    """The first of ``held`` that make up a batch, taken out of it; at least one."""
    fit = max(1, options.batch_tokens // tokens_of(held[0]))
    rows = itertools.accumulate(map(len, held[:fit]))
    count = max(1, sum(many <= options.batch_size for many in rows))
    batch, held[:count] = held[:count], []
    return batch
