"""Sketches of gradients: a few numbers a row that keep inner products, matrix by matrix.

A row's gradient is a list of matrices, two for every adapted layer. Each is handed over as [R, C],
R the rank of the adapter, C the width of the layer; a sketch adds it up into D numbers, and the
whole gradient is never held. All three are unbiased: the mean of <s(u), s(v)> over seeds is <u, v>.

``hashed``
    Every entry gets a random sign and one of D places. The variance of an inner product is
    (|u|^2 |v|^2 + <u, v>^2 - ...) / D, as with a dense matrix of signs (Charikar et al. 2002;
    Weinberger et al. 2009), and the cost is one addition an entry instead of D. Here places come
    from few numbers: entry (i, j) goes to (start + i stride + j) mod D, and its sign is a_i b_j,
    with start, stride, a and b random for each matrix. Two entries then share a place with
    probability 1 / D over start and stride, and those of a matrix that fits into D places, never;
    entries whose signs depend on each other do not share two places.
``per_module``
    The long side of each matrix times [C, k] random signs / sqrt(k); the rank side is left whole
    where R <= k. This is what bergson and LoGra do.
``flat``
    The whole gradient times one dense matrix of signs, as the released code of LESS and ICONS; the
    matrix is made anew in blocks. For parity and small models.

Signs are bits of PCG64, keyed by the seed and the name of the matrix, so that they are the same on
every machine, whatever comes before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch

SketchKind = Literal["hashed", "per_module", "flat"]
PROJECTIONS: tuple[SketchKind, ...] = ("hashed", "per_module", "flat")
BLOCK = 4096
"""Entries of a gradient for which ``flat`` makes signs at a time."""


@dataclass(frozen=True)
class MatrixShape:
    """One matrix of a gradient."""

    name: str
    rank: int
    """R, rows."""
    width: int
    """C, columns."""


class GradientSketch(Protocol):
    """A sketch of B rows under construction."""

    def add(self, matrix: MatrixShape, values: torch.Tensor) -> None:
        """Add the matrix's part of the rows' gradients, ``values`` [B, R, C]."""
        ...

    def result(self) -> torch.Tensor:
        """[B, D], in the precision of ``values``."""
        ...


def columns_of(kind: SketchKind, dimension: int, matrices: Sequence[MatrixShape]) -> int:
    """D: ``dimension``, or with ``per_module`` k numbers for min(R, k) rows of each matrix."""
    if kind != "per_module":
        return dimension
    return sum(min(each.rank, dimension) * min(each.width, dimension) for each in matrices)


def start(
    kind: SketchKind, dimension: int, seed: int, rows: int, like: torch.Tensor
) -> GradientSketch:
    """An empty sketch of ``rows`` rows, in the precision and on the device of ``like``."""
    if kind == "per_module":
        return _PerModule(dimension, seed)
    total = like.new_zeros(rows, dimension)
    return _Hashed(seed, dimension, total) if kind == "hashed" else _Flat(seed, total)


@dataclass
class _Hashed:
    """Entries are added up at start + i stride + j, and these places taken mod D at the end: an
    addition for each matrix, whatever D is.
    """

    seed: int
    places: int
    laid: torch.Tensor
    """[B, D or more], as far as any matrix reached."""

    def add(self, matrix: MatrixShape, values: torch.Tensor) -> None:
        import torch

        rows, rank, width = values.shape
        begin, stride, of_rows, of_columns = _places(
            self.seed, matrix, self.places, str(values.device), values.dtype
        )
        lacking = begin + rank * stride - self.laid.shape[1]
        if lacking > 0:
            self.laid = torch.nn.functional.pad(self.laid, (0, lacking))
        apart = (self.laid.shape[1], stride, 1)  # no row reaches the next: stride >= width
        self.laid.as_strided((rows, rank, width), apart, begin).addcmul_(
            values, of_rows * of_columns
        )

    def result(self) -> torch.Tensor:
        import torch

        rounds = -(-self.laid.shape[1] // self.places)
        whole = torch.nn.functional.pad(self.laid, (0, rounds * self.places - self.laid.shape[1]))
        return whole.view(-1, rounds, self.places).sum(dim=1)


@lru_cache(maxsize=4096)
def _places(
    seed: int, matrix: MatrixShape, places: int, device: str, dtype: torch.dtype
) -> tuple[int, int, torch.Tensor, torch.Tensor]:
    """First place and stride of a matrix, and signs [R, 1] and [C] whose products are those of its
    entries.
    """
    import torch

    begin, more = (int(n) for n in _generator(seed, matrix.name, 0).random_raw(2))
    rows = torch.from_numpy(signs(seed, matrix.name, 1, matrix.rank)).to(device, dtype)
    columns = torch.from_numpy(signs(seed, matrix.name, 2, matrix.width)).to(device, dtype)
    return begin % places, matrix.width + more % matrix.width, rows[:, None], columns


@dataclass
class _PerModule:
    k: int
    seed: int
    parts: dict[str, torch.Tensor] = field(default_factory=dict)

    def add(self, matrix: MatrixShape, values: torch.Tensor) -> None:
        import torch

        _, rank, width = values.shape
        if width > self.k:
            values = values @ self._matrix(matrix, 3, width, values)
        if rank > self.k:
            values = torch.einsum("brc,rk->bkc", values, self._matrix(matrix, 4, rank, values))
        self.parts[matrix.name] = values.flatten(1)

    def result(self) -> torch.Tensor:
        import torch

        return torch.cat([self.parts[name] for name in sorted(self.parts)], dim=1)

    def _matrix(
        self, matrix: MatrixShape, side: int, size: int, like: torch.Tensor
    ) -> torch.Tensor:
        import torch

        found = signs(self.seed, matrix.name, side, size * self.k).reshape(size, self.k)
        return torch.from_numpy(found).to(like.device, like.dtype) / self.k**0.5


@dataclass
class _Flat:
    seed: int
    total: torch.Tensor

    def add(self, matrix: MatrixShape, values: torch.Tensor) -> None:
        import torch

        flat, places = values.flatten(1), self.total.shape[1]
        for number, first in enumerate(range(0, flat.shape[1], BLOCK)):
            part = flat[:, first : first + BLOCK]
            made = signs(self.seed, matrix.name, 5 + number, part.shape[1] * places)
            block = torch.from_numpy(made.reshape(part.shape[1], places))
            self.total += part @ block.to(part.device, part.dtype)

    def result(self) -> torch.Tensor:
        return self.total / self.total.shape[1] ** 0.5


def signs(seed: int, name: str, side: int, count: int) -> np.ndarray:
    """``count`` random signs, int8, that depend on the arguments alone."""
    words = _generator(seed, name, side).random_raw(-(-count // 64)).astype("<u8")
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")[:count]
    return 1 - 2 * bits.astype(np.int8)


def _generator(seed: int, name: str, side: int) -> np.random.PCG64:
    words = np.frombuffer(hashlib.sha256(name.encode()).digest(), "<u4").tolist()
    return np.random.PCG64(np.random.SeedSequence([seed, side, *words]))
