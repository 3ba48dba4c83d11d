"""Prompts to batches: which share a prefix, and which run together within a budget of tokens.

Only the prompts, their order and the budget decide, so the same prompts run in the same batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coincide.models.encode import Encoded
from coincide.models.shared_prefix import pictures_end, prefix_length, same_pictures


@dataclass(frozen=True)
class Family:
    """Prompts that begin alike, pictures included."""

    places: tuple[int, ...]
    """Where the prompts stand among all."""
    prefix: int
    """Tokens that they share, with all their pictures; 0: each prompt runs whole."""


@dataclass(frozen=True)
class Batch:
    """Prompts that run together: first the prefixes, each once, then what is left of each."""

    families: tuple[Family, ...]
    alike: bool
    """Whether prefixes, and what is left of the prompts, are of one length: no padding."""

    @property
    def places(self) -> list[int]:
        """The prompts, family by family."""
        return [place for family in self.families for place in family.places]


def families(prompts: Sequence[Encoded]) -> list[Family]:
    """The prompts by pictures and opening, in the order of the first of each; those without a
    picture, each alone, at the end."""
    found: dict[tuple[int, ...], list[list[int]]] = {}
    for place, prompt in enumerate(prompts):
        end = pictures_end(prompt)
        if end:
            alike = found.setdefault(tuple(prompt.input_ids[:end].tolist()), [])
            for group in alike:
                if same_pictures(prompts[group[0]], prompt):
                    group.append(place)
                    break
            else:
                alike.append([place])
    groups = sorted(group for alike in found.values() for group in alike)
    shared = [
        Family(tuple(g), prefix_length([prompts[i] for i in g]) if g[1:] else 0) for g in groups
    ]
    blind = [Family((i,), 0) for i, prompt in enumerate(prompts) if not pictures_end(prompt)]
    return shared + blind


def batches(
    prompts: Sequence[Encoded],
    found: Sequence[Family],
    budget: int,
    new: int,
    *,
    padded: bool,
    once: bool = False,
) -> list[Batch]:
    """The families in batches of at most ``budget`` tokens in caches, padding and ``new`` tokens of
    each answer included; a prompt that needs more is a batch of its own.

    ``once``: a prefix is kept once for all its prompts. ``padded``: lengths within a batch may
    differ. Otherwise only prompts run together whose prefixes, and whose other tokens, are of one
    length; prompts that run whole always may.
    """
    made: list[Batch] = []
    for whole, rows in _kinds(prompts, found, padded or None):
        alike = not (padded or whole)
        held: list[Family] = []
        for family in sorted(rows, key=lambda f: (-_longest(prompts, f), f.places)):
            for part in _parts(prompts, family, budget, new, once):
                if held and most_tokens(prompts, [*held, part], new, once=once) > budget:
                    made.append(Batch(tuple(held), alike))
                    held = []
                held.append(part)
        if held:
            made.append(Batch(tuple(held), alike))
    return made


def _kinds(
    prompts: Sequence[Encoded], found: Sequence[Family], padded: bool | None
) -> list[tuple[bool, list[Family]]]:
    """Families that may run together: whether they run whole, and which they are."""
    kinds: dict[tuple[bool, int, int], list[Family]] = {}
    for family in found:
        if not family.prefix or padded:
            kinds.setdefault((not family.prefix, 0, 0), []).append(family)
            continue
        by_length: dict[int, list[int]] = {}
        for place in family.places:
            by_length.setdefault(len(prompts[place].input_ids), []).append(place)
        for length, places in by_length.items():
            kind = (False, family.prefix, length - family.prefix)
            kinds.setdefault(kind, []).append(Family(tuple(places), family.prefix))
    return [(whole, rows) for (whole, *_), rows in kinds.items()]


def _parts(
    prompts: Sequence[Encoded], family: Family, budget: int, new: int, once: bool
) -> list[Family]:
    """The family in parts of at most ``budget`` tokens, of prompts of similar length."""
    places = sorted(family.places, key=lambda i: (-len(prompts[i].input_ids), i))
    parts: list[Family] = []
    while places:
        one = len(prompts[places[0]].input_ids) + new - (family.prefix if once else 0)
        count = max(1, (budget - family.prefix) // one)
        parts.append(Family(tuple(places[:count]), family.prefix))
        places = places[count:]
    return parts


def _longest(prompts: Sequence[Encoded], family: Family) -> int:
    return max(len(prompts[place].input_ids) for place in family.places)


def most_tokens(prompts: Sequence[Encoded], held: Sequence[Family], new: int, *, once: bool) -> int:
    """Most tokens in caches while these families run together, each answer of ``new`` tokens."""
    rows = sum(len(family.places) for family in held)
    prefix = max(family.prefix for family in held)
    rest = max(_longest(prompts, family) - family.prefix for family in held)
    return len(held) * prefix + rows * ((0 if once else prefix) + rest + new)
