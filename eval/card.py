"""A dataset's card: which files make up which split, read from the README as the hub keeps it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

Splits = Mapping[str, Sequence[str]]
"""Configuration -> splits."""
CARD = "README.md"
_SHARD = re.compile(r"^(?P<stem>.*)-\d{5}-of-(?P<count>\d{5})\.\w+$")


def patterns(card: str, wanted: Splits) -> dict[tuple[str, str], list[str]] | None:
    """(configuration, split) -> path patterns of the wanted splits, as the card declares them.

    None where it does not declare one of them, e.g. since the files' names alone say it.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for entry in _front_matter(card).get("configs") or []:
        files = entry.get("data_files") if isinstance(entry, Mapping) else None
        for item in files if isinstance(files, list) else []:
            if isinstance(item, Mapping) and "split" in item and "path" in item:
                paths = item["path"] if isinstance(item["path"], list) else [item["path"]]
                found[str(entry["config_name"]), str(item["split"])] = [str(p) for p in paths]
    keys = [(config, split) for config, splits in wanted.items() for split in splits]
    return {key: found[key] for key in keys} if all(key in found for key in keys) else None


def files(folder: Path, wanted: Splits) -> dict[tuple[str, str], list[str]] | None:
    """(configuration, split) -> relative paths of its files; None where one is incomplete.

    Where the card declares no such split, every data file counts, under the one key ``("", "")``.
    """
    card = folder / CARD
    declared = patterns(card.read_text(encoding="utf-8"), wanted) if card.is_file() else None
    if declared is None:
        found = {("", ""): _relative(folder, "**/*")}
    else:
        found = {key: [n for p in each for n in _relative(folder, p)]
                 for key, each in declared.items()}  # fmt: skip
    return found if all(names and _whole(names) for names in found.values()) else None


def reduced(found: Mapping[tuple[str, str], Sequence[str]]) -> str:
    """A card that declares these splits and no others."""
    configs: dict[str, list[dict[str, Any]]] = {}
    for (config, split), names in found.items():
        configs.setdefault(config, []).append({"split": split, "path": list(names)})
    entries = [{"config_name": name, "data_files": each} for name, each in configs.items()]
    return f"---\n{yaml.safe_dump({'configs': entries}, sort_keys=False)}---\n"


def _front_matter(card: str) -> Mapping[str, Any]:
    """The YAML between the first two lines of dashes; nothing where there is none."""
    found = re.match(r"\A---\s*\n(.*?)\n---", card, re.DOTALL)
    try:
        content = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return {}
    return content if isinstance(content, Mapping) else {}


def _relative(folder: Path, pattern: str) -> list[str]:
    """The parquet files that match, hidden ones left out, sorted."""
    names = [path.relative_to(folder) for path in folder.glob(pattern) if path.is_file()]
    shown = [n for n in names if not any(part.startswith(".") for part in n.parts)]
    return sorted(str(name) for name in shown if name.suffix == ".parquet")


def _whole(names: Sequence[str]) -> bool:
    """Whether all shards are there of every file that says how many it was cut into."""
    shards: dict[tuple[str, int], int] = {}
    for name in names:
        if cut := _SHARD.match(name):
            key = (cut["stem"], int(cut["count"]))
            shards[key] = shards.get(key, 0) + 1
    return all(count == have for (_, count), have in shards.items())
