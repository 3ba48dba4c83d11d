"""A step: an artifact before it exists, with its key, what it needs and how it is built."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from coincide.system.files import as_name, canonical, digest_of

if TYPE_CHECKING:
    from coincide.store.store import Build

DIGITS = 12
"""Hexadecimal digits of the key at the end of an artifact's folder name."""
_HASH = re.compile(r"[0-9a-f]{12,64}")


@dataclass(frozen=True, eq=False)
class Step:
    """An artifact before it exists. Two steps with the same key are the same artifact."""

    kind: str
    """Folder in the store, e.g. ``features``."""
    name: str
    """Readable part of the folder's name; not part of the key."""
    version: int
    """Code version of the step: to be raised when the same config would give another result."""
    config: Mapping[str, Any]
    """What changes the result, as JSON. What only changes the speed is left out."""
    build: Callable[[Build], Mapping[str, Any] | None] = field(repr=False)
    """Writes files into ``build.dir``; returns facts for the manifest (JSON)."""
    needs: tuple[Step, ...] = ()
    """Steps whose artifacts the builder reads; their keys are part of the key."""
    note: str = ""
    """One line for the plan, e.g. the number of examples."""
    links: bool = False
    """The builder replaces files by renaming and never writes into an existing one. A repair can
    then hard-link the undamaged files (many gigabytes) instead of copying them."""
    trained: bool = False
    """It takes training: if damaged, it is refused and not trained again without being asked."""
    after: tuple[Step, ...] = ()
    """Steps built before this one; only what they found is part of the key, as fields of
    ``late``."""
    late: tuple[str, ...] = ()
    """Fields of ``config`` that are known once ``after`` is built, and absent before."""

    @cached_property
    def key(self) -> str:
        return self._digest(self.config, [need.key for need in self.needs])

    @cached_property
    def planned(self) -> str:
        """A key without the ``late`` fields, the same before and after they are known.

        Equal to ``key`` if neither the step nor its needs have such fields.
        """
        below = [need.planned for need in (*self.needs, *self.after)]
        if not self.late and below == [need.key for need in self.needs]:
            return self.key
        early = {name: value for name, value in self.config.items() if name not in self.late}
        return self._digest(early, below)

    @property
    def names(self) -> tuple[str, ...]:
        """``planned``, and ``key`` if it differs."""
        return tuple(dict.fromkeys((self.planned, self.key)))

    @cached_property
    def fields(self) -> Mapping[str, Any]:
        """Version and config by dotted name, as JSON, which cannot tell a tuple from a list."""
        return _flat({"version": self.version, **json.loads(canonical(self.config))})

    def _digest(self, config: Mapping[str, Any], needs: Sequence[str]) -> str:
        content = {
            "kind": self.kind,
            "version": self.version,
            "config": json.loads(canonical(config)),
            "needs": list(needs),
        }
        return digest_of(content)

    @property
    def digits(self) -> str:
        """The first digits of the key, as in folder names."""
        return self.key[:DIGITS]

    @property
    def folder(self) -> str:
        return f"{self.kind}/{as_name(self.name)}-{self.digits}"


def by_key(steps: Sequence[Step]) -> list[Step]:
    """One step per key, sorted by key: the order in which every process takes the locks."""
    return [s for _, s in sorted({s.key: s for s in steps}.items())]


def need_fields(needs: Sequence[Step]) -> dict[str, str]:
    """Name -> folder name of each need, as recorded in a manifest."""
    return {f"needs.{i}.{n.kind}": f"{as_name(n.name)}-{n.digits}" for i, n in enumerate(needs)}


def differences(step: Step, manifest: Mapping[str, Any]) -> list[str]:
    """``field: had -> wanted`` for each field in which ``step`` differs from ``manifest``.

    Needs are compared by key, not by readable name.
    """
    wanted = step.fields
    have = _flat({"version": manifest.get("version"), **manifest.get("config", {})})
    needs, had = need_fields(step.needs), manifest.get("needs", {})
    config = [k for k in sorted(wanted.keys() | have.keys()) if wanted.get(k) != have.get(k)]
    # an empty list beside no such field says nothing, where anything else differs
    config = [
        k for k in config if wanted.get(k) or have.get(k) or k in wanted.keys() & have
    ] or config
    others = [k for k in sorted(needs.keys() | had.keys()) if _key_of(needs, k) != _key_of(had, k)]
    return [
        *(_difference(k, have.get(k, "absent"), wanted.get(k, "absent")) for k in config),
        *(f"another {_kind(k)}: {had.get(k, 'none')} -> {needs.get(k, 'none')}" for k in others),
    ]


def _kind(place: str) -> str:
    return place.rsplit(".", 1)[-1]


def _key_of(needs: Mapping[str, str], place: str) -> str:
    return needs.get(place, "").rsplit("-", 1)[-1]


def _difference(name: str, have: Any, wanted: Any) -> str:
    """The difference as text; of a hash only its first digits."""
    if all(isinstance(v, str) and _HASH.fullmatch(v) for v in (have, wanted)):
        return f"{name}: other content (hash {have[:8]} -> {wanted[:8]})"
    return f"{name}: {have} -> {wanted}"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat.update(_flat(item, f"{prefix}.{key}" if prefix else str(key)))
    return flat
