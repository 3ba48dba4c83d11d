"""Rows that begin alike, as one sequence: what they begin with, then the rest of each row.

A dataset asks several questions of one picture. The opening, the picture and its tokens are the
same in all these rows, and with causal attention they do not depend on what follows: they run once.
The attention mask lets the rest of a row see the beginning and itself, and its positions go on from
the beginning, so that every state is what it is in the row alone. Nothing is cached or repeated.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from coincide.models.encode import PER_TOKEN, Encoded, collate
from coincide.models.shared_prefix import keeps_every_key, pictures_end, same_pictures

MOST_TOKENS = 2048
"""Of a sequence: each of its tokens is compared with all others, also with those it cannot see."""
ALLOWED = {torch.float64: 1e-6, torch.float32: 1e-3}
"""Largest difference of a token's states from those of the row alone, relative to their norm; else
``HALF``."""
HALF = 0.2


@dataclass(frozen=True)
class Packed:
    """B rows in P sequences of at most L tokens; the longest row has T."""

    inputs: Mapping[str, torch.Tensor]
    """A collated batch of the sequences; ``attention_mask`` is bool [P, 1, L, L]."""
    sequences: torch.Tensor
    """int64 [B]: the sequence that holds each row."""
    places: torch.Tensor
    """int64 [B, T]: where each token of a row stands in its sequence; 0 at padding."""
    shared: tuple[int, ...]
    """Number of tokens that each row begins with in common with the others of its sequence; all of
    its tokens where there are none."""

    def unpacked(self, states: torch.Tensor) -> torch.Tensor:
        """``states`` [P, L, H] of the sequences as those of the rows, [B, T, H]."""
        return states[self.sequences[:, None], self.places]


def can_pack(network: Any) -> bool:
    """Whether the states of ``network`` are the same in such a sequence.

    That takes a decoder whose layers attend to all tokens before, with one rotary position a token,
    through SDPA; and pictures that take the places of tokens.
    """
    config = network.config.get_text_config(decoder=True)
    rotary = getattr(config, "rope_parameters", None) or {}
    return (
        getattr(config, "_attn_implementation", None) == "sdpa"
        and bool(rotary)
        and "mrope_section" not in rotary
        and "mm_encoder_outputs" in inspect.signature(network.base_model.forward).parameters
        and keeps_every_key(network)
    )


def group_by_prefix(rows: Sequence[Encoded], most_rows: int, most_tokens: int) -> list[list[int]]:
    """Places of ``rows`` in groups that begin alike, pictures included, each for one sequence.

    At most ``most_rows`` rows and ``most_tokens`` tokens, unless one row has more; a row without
    pictures is alone.
    """
    groups: list[list[int]] = []
    tokens: list[int] = []
    for place, row in enumerate(rows):
        end = pictures_end(row)
        for number, group in enumerate(groups):
            longer = tokens[number] + len(row.input_ids) - end
            fits = len(group) < most_rows and longer <= min(most_tokens, MOST_TOKENS)
            if end and fits and _alike(rows[group[0]], row, end):
                group.append(place)
                tokens[number] = longer
                break
        else:
            groups.append([place])
            tokens.append(len(row.input_ids))
    return groups


def _alike(one: Encoded, other: Encoded, end: int) -> bool:
    """Whether two rows show the same pictures behind the same text, in the first ``end`` tokens."""
    per_token = any(name in PER_TOKEN for row in (one, other) for name in row.extra)
    return (
        not per_token
        and pictures_end(one) == end < min(len(one.input_ids), len(other.input_ids))
        and torch.equal(one.input_ids[:end], other.input_ids[:end])
        and same_pictures(one, other)
    )


def packed_length(rows: Sequence[Encoded]) -> int:
    """Tokens of the sequence that holds ``rows``, which begin alike."""
    shared = pictures_end(rows[0]) * (len(rows) - 1)
    return sum(len(row.input_ids) for row in rows) - shared


def pack(groups: Sequence[Sequence[Encoded]], pad_id: int, device: str) -> Packed:
    """Each of ``groups``, rows that begin alike, as one sequence; rows in the order given."""
    ends = [_shared(group) for group in groups]
    inputs = collate([_joined(g, end) for g, end in zip(groups, ends, strict=True)], pad_id)
    length = inputs["input_ids"].shape[1]
    parts = torch.full((len(groups), length), -1)  # 0: the beginning; else number of the row
    positions = torch.zeros((len(groups), length), dtype=torch.int64)
    sequences, places = [], []
    for number, (group, end) in enumerate(zip(groups, ends, strict=True)):
        parts[number, :end] = 0
        positions[number] = torch.arange(length)
        start = end
        for own, row in enumerate(group, start=1):
            rest = len(row.input_ids) - end
            parts[number, start : start + rest] = own
            positions[number, start : start + rest] = torch.arange(end, end + rest)
            sequences.append(number)
            places.append(torch.cat([torch.arange(end), torch.arange(start, start + rest)]))
            start += rest
    parts = parts.to(device)
    seen = (parts[:, None] == parts[:, :, None]) | (parts[:, None] == 0)
    seen &= torch.ones(length, length, dtype=torch.bool, device=device).tril()
    inputs |= {"attention_mask": seen.unsqueeze(1), "position_ids": positions}
    return Packed(
        {name: value.to(device) for name, value in inputs.items()},
        torch.tensor(sequences, device=device),
        torch.nn.utils.rnn.pad_sequence(places, batch_first=True).to(device),
        tuple(end for group, end in zip(groups, ends, strict=True) for _ in group),
    )


def _shared(group: Sequence[Encoded]) -> int:
    return pictures_end(group[0]) if len(group) > 1 else len(group[0].input_ids)


def _joined(group: Sequence[Encoded], end: int) -> Encoded:
    """One sequence: the first row of ``group``, then what the others have after ``end`` tokens."""
    first, *others = group

    def joined(name: str) -> torch.Tensor:
        return torch.cat([getattr(first, name), *(getattr(row, name)[end:] for row in others)])

    return replace(
        first,
        input_ids=joined("input_ids"),
        labels=joined("labels"),
        image_mask=joined("image_mask"),
        text_mask=joined("text_mask"),
    )


def largest_difference(network: Any, inputs: Mapping[str, Any], states: torch.Tensor) -> float:
    """How far the last ``states`` [T, H] of a row are from those that the model gives for the
    ``inputs`` of the row alone: the largest difference of a token's, relative to its norm."""
    alone = network.base_model(**inputs, use_cache=False).last_hidden_state[0].double()
    difference = (alone - states[: len(alone)].double()).norm(dim=1)
    return float((difference / alone.norm(dim=1).clamp_min(1e-30)).max())


def allowed(dtype: torch.dtype) -> float:
    """The largest difference of :func:`largest_difference` that rounding in ``dtype`` explains."""
    return ALLOWED.get(dtype, HALF)
