"""The identity of a result: hashes of the contents that it depends on, not their names.

Two datasets, checkpoints or index files may share a name or path; their keys in the store tell them
apart, on any machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from coincide.protocols import FinetuningRecipe
from coincide.schema import Method
from coincide.selection.stage import method_config
from coincide.store import Step
from coincide.system.files import digest_of

DIGITS = 12
"""Digits of a key that are kept, as in the folder names of artifacts."""


def method_content(method: Method) -> dict[str, str]:
    """``{"method": hash}`` of what determines the method's result besides its fields, e.g. the file
    that ``from_file`` reads; empty if the fields are all.
    """
    more = {k: v for k, v in method_config(method).items() if k not in _fields(method)}
    return {"method": digest(more)} if more else {}


def content_keys(method: Method, **steps: Step | None) -> dict[str, str]:
    """Keys of ``steps`` (data, target, ...) and :func:`method_content`, for ``Result.contents``."""
    keys = {part: step.key[:DIGITS] for part, step in steps.items() if step is not None}
    return {**keys, **method_content(method)}


def fields_outside_key(method: Method, recipe: FinetuningRecipe) -> list[str]:
    """Dotted fields of method and training that do not change the result.

    These are the fields that method and recipe leave out of their part of the key.
    """
    kept = {"method": method_config(method), "train": recipe.answer_config()}
    parts = {"method": _fields(method), "train": _fields(recipe)}
    return sorted(f"{p}.{name}" for p in parts for name in parts[p] if name not in kept[p])


def asked_hash(step: Step) -> str:
    """A hash of what a benchmark asked and how it was scored, without the model: ``hash@dataset``.

    ``dataset`` identifies the benchmark's documents: ``commit-...`` of the hub or ``bytes-...``, a
    hash of the files; absent if not known.
    """
    config = dict(step.config)
    documents = config.pop("content", None)
    data = [need.key for need in step.needs if need.kind == "data"]
    found = digest([step.version, config, data])
    if not documents:
        return found
    kind = "commit" if len(documents) == 40 else "bytes"
    return f"{found}@{kind}-{documents[:DIGITS]}"


def same_asked(first: str, second: str) -> bool:
    """Whether scores with these two values of :func:`asked_hash` may be compared.

    Yes when they are equal, when either is empty (not recorded), and when they differ only in the
    kind of dataset identity: a commit and a hash of bytes may name the same dataset.
    """
    (one, _, ours), (other, _, theirs) = first.partition("@"), second.partition("@")
    if not one or not other:
        return True
    comparable = ours.partition("-")[0] == theirs.partition("-")[0]
    return one == other and (ours == theirs or not comparable)


def digest(value: Any) -> str:
    """First 12 hexadecimal digits of the SHA-256 of ``value`` (JSON)."""
    return digest_of(value)[:DIGITS]


def _fields(part: Any) -> Mapping[str, Any]:
    return asdict(part) if is_dataclass(part) and not isinstance(part, type) else {}
