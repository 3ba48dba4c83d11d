"""Inexact squared distances between tiles of rows, with certain bounds on their errors.

Rows are moved by a common point and scaled by a power of two, then rounded to the type that the
processor multiplies fastest. One product of two tiles gives half of all squared distances: beside
its rounded numbers a row has its half squared length, in three parts, and three ones. What a row
lost in rounding is measured; a distance is wrong by at most what both rows lost (triangle
inequality) and by the rounding of the sum.

A coarse screen has the rows' coordinates along ``q`` principal directions and, as one coordinate
more, the length of the rest. Distances there are never larger than those of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

_PARTS = 3
"""Numbers that hold a half squared length."""
OUTSIDE = 2.0**100
"""Half squared length of what is behind the last row: near to no row."""
_TINY = 1e-30
"""More than all products lose that are too small for the type of their sum."""
_EQUAL = 1e-12
"""More than the squared distance of rows that count as equal: none is longer than 1/2."""
_UNIT = {torch.bfloat16: 2.0**-23, torch.float32: 2.0**-23, torch.float64: 2.0**-52}
"""Error of an addition inside a product; twice that of rounding, as some units cut off."""
_STORED = {torch.bfloat16: 2.0**-8, torch.float32: 2.0**-23, torch.float64: 2.0**-52}
"""Relative error of a number in its type, at most."""


@dataclass(frozen=True)
class Vectors:
    """A tile of n rows, ready to be multiplied."""

    right: torch.Tensor
    """Rounded numbers, ones, and the half squared length in parts."""
    lost: np.ndarray
    """float64 [n], length of each row's rounding error, at most."""
    length: np.ndarray
    """float64 [n], length of each rounded row, at most."""

    def left(self) -> torch.Tensor:
        """The factor of a product whose other is ``right`` of the same or another tile."""
        numbers, ones, parts = self.right.split(
            [self.right.shape[1] - 2 * _PARTS, _PARTS, _PARTS], 1
        )
        return torch.cat([-numbers, parts, ones], dim=1)


@dataclass(frozen=True)
class Screen:
    """How rows become vectors of ``kind``; ``basis`` float64 [D, q] makes it a coarse one."""

    kind: torch.dtype
    basis: torch.Tensor | None = None

    def vectors(self, rows: torch.Tensor, count: int) -> Vectors:
        """Of a tile float64 [n, D], of which the first ``count`` are rows."""
        if self.basis is not None:
            part = rows @ self.basis
            rest = (rows.square().sum(1) - part.square().sum(1)).clamp_(min=0).sqrt_()
            rows = torch.cat([part, rest[:, None]], dim=1)
        rounded = rows.to(self.kind)
        again = rounded.double()
        lost = (rows - again).norm(dim=1)
        if self.basis is not None:
            lost += 4e-6 * rows.norm(dim=1)  # of the square root, and of the basis
        half = again.square().sum(1) / 2
        half[count:] = OUTSIDE
        parts, left = [], half
        for _ in range(_PARTS):
            parts.append(left.to(self.kind))
            left = left - parts[-1].double()
        ones = torch.ones(len(rows), _PARTS, dtype=self.kind, device=rows.device)
        stacked = torch.stack(parts, dim=1)
        slack = 1 + 2.0**-40
        return Vectors(
            torch.cat([rounded, ones, stacked], dim=1),
            lost.cpu().numpy() * slack,
            again.norm(dim=1).cpu().numpy() * slack,
        )

    def summing(self, a: Vectors, b: Vectors) -> np.ndarray:
        """Bound on the error of ``a``'s half squared distances to any row of ``b``: float64 [n]."""
        longest = float(b.length.max())
        terms = a.length * longest + (a.length**2 + longest**2) / 2
        return (a.right.shape[1] + 8) * _UNIT[self.kind] * terms + _TINY

    def limits(self, a: Vectors, b: Vectors, reach: np.ndarray) -> torch.Tensor:
        """Of ``a``'s rows: the largest product that a row of ``b`` within ``reach`` can have.

        ``reach`` float32 [n] are squared distances. In the type of the products.
        """
        apart = np.sqrt(reach.astype(np.float64) + _EQUAL) + a.lost + b.lost.max()
        most = np.minimum((apart**2 / 2 + self.summing(a, b)) * (1 + 1e-9), OUTSIDE / 4)
        return torch.from_numpy(most).to(self.kind)  # rounding keeps the order

    def bounds(
        self, a: Vectors, b: Vectors, row: np.ndarray, other: np.ndarray, half: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Squared distance of pairs, float32 [p]: at least, and at most if the screen knows.

        ``half`` are their products.
        """
        stored, summing = _STORED[self.kind], self.summing(a, b)[row]
        lost = a.lost[row] + b.lost[other]
        values = np.maximum(half.astype(np.float64), 0)
        low = np.sqrt(np.maximum(2 * (values * (1 - stored) - summing), 0)) - lost
        low = np.maximum(np.maximum(low, 0) ** 2 * (1 - 1e-6) - _EQUAL, 0)
        if self.basis is not None:
            return low.astype(np.float32), None
        high = (np.sqrt(2 * (values * (1 + stored) + summing)) + lost) ** 2 * (1 + 1e-6)
        return low.astype(np.float32), high.astype(np.float32)


def half_type(device: str) -> torch.dtype:
    """The type of the fastest products whose sums are float32."""
    if device != "cpu":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if getattr(torch.cpu, "_is_avx512_bf16_supported", bool)():  # else slower than float32
        return torch.bfloat16
    return torch.float32


def at_most(
    product: torch.Tensor, limits: torch.Tensor, *, columns: bool
) -> tuple[np.ndarray, np.ndarray]:
    """``(row, column)`` of the numbers of ``product`` up to their row's (column's) limit.

    On a CPU numbers are compared as integers, whose order is that of floats >= 0 and which
    processors compare several times as fast as halves; a negative one is below every limit.
    """
    dim = 0 if columns else 1
    if product.device.type != "cpu":
        most = limits.to(product.device)
        found = (product <= (most if columns else most[:, None])).nonzero().cpu().numpy()
        return found[:, 0], found[:, 1]
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[product.element_size()]
    numbers, ends = product.view(whole), limits.view(whole)
    some = (numbers.amin(dim) <= ends).nonzero()[:, 0].numpy()
    if not len(some):
        return some, some
    values, border = numbers.numpy(), ends.numpy()
    if columns:
        values, border = (values, border) if len(some) > 64 else (values[:, some], border[some])
        row, column = np.divmod(np.flatnonzero(values <= border), values.shape[1])
        return row, column if len(some) > 64 else some[column]
    row, column = np.divmod(np.flatnonzero(values[some] <= border[some, None]), values.shape[1])
    return some[row], column


def principal(sample: torch.Tensor) -> torch.Tensor:
    """Orthonormal directions float64 [D, D] of ``sample`` [n, D], the strongest first."""
    _, vectors = torch.linalg.eigh(sample.T @ sample)
    basis = torch.flip(vectors, [1])
    return torch.linalg.qr(basis)[0]


def coarse_width(rows: torch.Tensor, reach: np.ndarray, basis: torch.Tensor) -> int | None:
    """How many directions a coarse screen should have; None if it saves too little.

    Of some ``rows`` float64 [n, D] it rules out the pairs that are farther apart than ``reach``
    [n], squared distances.
    """
    width = rows.shape[1]
    part, whole = rows @ basis, rows.square().sum(1)
    most = torch.from_numpy(reach).double().sqrt()[:, None].to(rows.device)
    best, cheapest = None, 0.7
    for q in (57, 89, 121, 185, 249, 377, 505):  # 7 more make a multiple of 32
        if q > width // 2:
            break
        rest = (whole - part[:, :q].square().sum(1)).clamp(min=0).sqrt()
        seen = torch.cat([part[:, :q], rest[:, None]], dim=1)
        left = float((torch.cdist(seen, seen) <= most).double().mean()) - 1 / len(rows)
        cost = (q + 7) / width + min(1.0, 500 * left)
        if cost < cheapest:
            best, cheapest = q, cost
    return best
