"""What an artifact is before it exists: its key, what it needs, how it is built."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from coincide.files import as_name, canonical

if TYPE_CHECKING:
    from coincide.store.store import Build

DIGITS = 12
"""Hex digits of the key that end an artifact's folder name."""
_HASH = re.compile(r"[0-9a-f]{12,64}")


@dataclass(frozen=True, eq=False)
class Step:
    """An artifact before it exists. Two steps with the same key are the same artifact."""

    kind: str
    """Folder under the store, e.g. ``features``."""
    name: str
    """Readable part of the folder's name, made safe there; not in the key."""
    version: int
    """Code version of the step: raise it when the same config starts to give another answer."""
    config: Mapping[str, Any]
    """What changes the answer, as JSON. What only changes its speed stays out."""
    build: Callable[[Build], Mapping[str, Any] | None] = field(repr=False)
    """Writes files into ``build.dir``; returns facts for the manifest."""
    needs: tuple[Step, ...] = ()
    note: str = ""
    """One line for the plan, e.g. the number of examples."""
    links: bool = False
    """Its builder replaces files by a rename, and never writes into one that it finds: a repair
    then links to the sound ones, which may be many gigabytes, and does not copy them."""
    trained: bool = False
    """It took training: with other bytes than it was written with it is refused, and not trained
    again unasked."""
    after: tuple[Step, ...] = ()
    """Built before this one, and in its key only by what they found: fields of ``late``."""
    late: tuple[str, ...] = ()
    """Fields of ``config`` that are known once ``after`` is built, and absent before."""

    @cached_property
    def key(self) -> str:
        return self._digest(self.config, [need.key for need in self.needs])

    @cached_property
    def planned(self) -> str:
        """What the step is called before and after ``late`` fields are known: the key where
        neither it nor its needs have any.
        """
        below = [need.planned for need in (*self.needs, *self.after)]
        if not self.late and below == [need.key for need in self.needs]:
            return self.key
        early = {name: value for name, value in self.config.items() if name not in self.late}
        return self._digest(early, below)

    @property
    def names(self) -> tuple[str, ...]:
        """``planned``, and the key where that is another."""
        return tuple(dict.fromkeys((self.planned, self.key)))

    def _digest(self, config: Mapping[str, Any], needs: Sequence[str]) -> str:
        content = {
            "kind": self.kind,
            "version": self.version,
            "config": json.loads(canonical(config)),
            "needs": list(needs),
        }
        return hashlib.sha256(canonical(content).encode()).hexdigest()

    @property
    def digits(self) -> str:
        """The part of the key that folder names hold."""
        return self.key[:DIGITS]

    @property
    def folder(self) -> str:
        return f"{self.kind}/{as_name(self.name)}-{self.digits}"


def by_key(steps: Sequence[Step]) -> list[Step]:
    """One step per key, in key order: the order in which every process takes the locks."""
    return [s for _, s in sorted({s.key: s for s in steps}.items())]


def need_fields(needs: Sequence[Step]) -> dict[str, str]:
    """What a manifest says of the artifacts that one was made from."""
    return {f"needs.{i}.{n.kind}": f"{as_name(n.name)}-{n.digits}" for i, n in enumerate(needs)}


def differences(step: Step, manifest: Mapping[str, Any]) -> list[str]:
    """``field: had -> wanted`` for each field in which ``step`` is not that of ``manifest``.

    Both as JSON, since a manifest cannot tell a tuple from a list; of what it stands on the key
    counts and not the readable name.
    """
    wanted = _flat({"version": step.version, **json.loads(canonical(step.config))})
    have = _flat({"version": manifest.get("version"), **manifest.get("config", {})})
    needs, had = need_fields(step.needs), manifest.get("needs", {})
    config = [k for k in sorted(wanted.keys() | have.keys()) if wanted.get(k) != have.get(k)]
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
    """Of a hash its first digits, and that it stands for content."""
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
