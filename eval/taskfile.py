"""Read a task's YAML without lmms-eval, whose import takes seconds."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import yaml

from coincide.schema import UserError


class _Loader(yaml.SafeLoader):
    """Reads ``!function`` tags as the text that follows them."""


_Loader.add_constructor("!function", lambda loader, node: str(node.value))


def files(path: Path) -> list[Path]:
    """``path`` and all files that it includes. Raises UserError if one does not exist."""
    return [file for file, _ in _chain(path)]


def settings(path: Path) -> dict[str, Any]:
    """The keys of a task, including those of the files it includes; the including file wins."""
    found: dict[str, Any] = {}
    for _, content in reversed(_chain(path)):
        found |= content
    return {key: value for key, value in found.items() if key != "include"}


def digest(path: Path) -> str:
    """Hash over a task's file, the files it includes, and the code beside it."""
    read = [*files(path), *sorted(path.parent.glob("*.py"))]
    return hashlib.sha256(b"\0".join(p.read_bytes() for p in read)).hexdigest()[:16]


def digest_folder(folder: Path, task: str) -> str:
    """Hash over the folder of ``task``, so that an edited prompt or metric changes the key.

    Raises UserError if the folder has no such task.
    """
    read = sorted(p for p in folder.rglob("*") if p.suffix in (".yaml", ".py", ".txt"))
    if not (folder / f"{task}.yaml").is_file():
        raise UserError(
            f"{folder / f'{task}.yaml'}: no such file, where {task!r} was looked for; there "
            f"are {', '.join(p.stem for p in read if p.suffix == '.yaml') or 'none'}."
        )
    found = hashlib.sha256()
    for path in read:
        content = path.read_bytes()
        found.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode() + content)
    return found.hexdigest()[:16]


def _chain(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Each file with its own keys; a file comes before those that it includes."""
    if not path.is_file():
        raise UserError(f"{path}: no such file, named by a benchmark or included by its task.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: no YAML that can be read: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected keys and values, as a task of lmms-eval has them.")
    included = content.get("include") or []
    names = [included] if isinstance(included, str) else included
    return [(path, content), *(pair for name in names for pair in _chain(path.parent / name))]
