"""Whether a model's tokens see what comes after them: then they see the answers they predict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from coincide.models.decoder import last_states
from coincide.models.encode import Encoded
from coincide.schema import UserError

ALLOWED = {torch.float64: 1e-6, torch.float32: 1e-4}
"""Largest difference of a token's states, relative to their norm, that rounding explains; in half
precision ``HALF``."""
HALF = 0.02


def changed_end(row: Encoded) -> Encoded | None:
    """``row`` with another last token, taken from its own text; None if its text has but one."""
    ids = row.input_ids
    others = ids[row.text_mask & (ids != ids[-1])]
    if not len(others) or bool(row.image_mask[-1]):
        return None
    return replace(row, input_ids=torch.cat([ids[:-1], others[-1:]]))


def check_causal(network: Any, inputs: Mapping[str, Any], changed: Mapping[str, Any]) -> None:
    """Compare the states before the last token of two rows that differ in it alone.

    Raises UserError if they differ: the model's attention is not causal, so its scores of answers
    would be those of a model that has read them.
    """
    one, other = (last_states(network, each, use_cache=False)[0][0] for each in (inputs, changed))
    before, after = one[:-1].double(), other[:-1].double()
    apart = ((before - after).norm(dim=1) / before.norm(dim=1).clamp_min(1e-30)).max()
    if float(apart) > ALLOWED.get(network.dtype, HALF):
        raise UserError(
            f"the attention of {type(network).__name__} is not causal: with another last token "
            f"the states of those before it differ by {float(apart):.2g} of their norm, so one "
            "sees the answer that it is to predict. Choose another model: docs/MODELS.md."
        )
