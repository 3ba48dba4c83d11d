"""Scores that are equal but for rounding are made equal, so that the row index orders them.

A sum's last bits depend on the order of its additions: on the processor's vector units, and within
one product on the place of a row in it, so that even equal rows may score differently. A score that
is kept as float32 after a sum in float64 is settled by that. Where float64 scores are compared as
they are, they go through here first. Two numbers on the two sides of a rounding boundary may still
part: with errors of 1e-16 one pair of equals in some thousands.
"""

from __future__ import annotations

import numpy as np

DIGITS = 12
"""Digits that are kept of the largest score: sums of 4,096 products of unit rows err by less than
1e-13, and half precision tells no rows apart whose cosines differ by less than 1e-8.
"""


def settled(scores: np.ndarray) -> np.ndarray:
    """Finite ``scores`` (float64) to :data:`DIGITS` digits of the power of two above the largest of
    them.
    """
    _, power = np.frexp(np.abs(scores).max(initial=0.0))
    scale = 2.0 ** int(power)
    return np.asarray(np.round(scores / scale, DIGITS) * scale)
