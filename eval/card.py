"""A dataset's card: which files make up which split, read from the README as the hub stores it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from eval import parquet

Splits = Mapping[str, Sequence[str]]
"""Configuration -> splits."""
CardFiles = dict[tuple[str, str], list[str]]
"""(configuration, split) -> relative paths, or patterns of them."""
CARD = "README.md"
DEFAULT = "default"
"""The configuration of an entry without a name, as in the ``datasets`` library."""
_SHARD = re.compile(r"^(?P<stem>.*[-._])(?P<number>\d+)-of-(?P<count>\d+)(?:-[0-9a-f]+)?\.\w+$")
"""``test-00000-of-00002.parquet``; ``datasets`` before 2.15 appended a hash; some count from 1."""


def patterns(card: str, wanted: Splits) -> CardFiles | None:
    """Path patterns of the wanted splits, as the card declares them.

    None if it does not declare one of them, e.g. because the files' names alone say it.
    """
    found: CardFiles = {}
    for entry in _entries(_front_matter(card).get("configs")):
        below = PurePosixPath(str(entry.get("data_dir") or ""))
        for split, path in _paths(entry.get("data_files")):
            key = (str(entry.get("config_name") or DEFAULT), split)
            found.setdefault(key, []).append(path if "://" in path else str(below / path))
    keys = [(config, split) for config, splits in wanted.items() for split in splits]
    return {key: found[key] for key in keys} if all(key in found for key in keys) else None


def files(folder: Path, wanted: Splits) -> CardFiles | None:
    """Relative paths of the files of each split; None if a split is incomplete.

    If the card declares no such split, every data file is used, under the key ``("", "")``.
    """
    found, why = files_and_fault(folder, wanted)
    return None if why else found


def files_and_fault(folder: Path, wanted: Splits) -> tuple[CardFiles, str]:
    """:func:`files`, complete or not, and what is wrong: a file, and what to do.

    Empty if nothing is.
    """
    if not folder.is_dir():
        return {}, "there is no such folder"
    try:
        text = read(folder)
    except UnicodeDecodeError:
        return {}, f"{CARD} is no UTF-8 text; fetch it again"
    declared = patterns(text, wanted)
    listed = [pattern for each in (declared or {}).values() for pattern in each]
    outside = next((pattern for pattern in listed if _outside(pattern)), None)
    if outside is not None:
        return {}, (
            f"{CARD} names {outside!r} as a file of the dataset; expected a path below the folder: "
            "write it so, and copy or link the file there"
        )
    if declared is None:
        found = {("", ""): _relative(folder, "**/*")}
    elif lost := next((pattern for pattern in listed if not _relative(folder, pattern)), None):
        return {}, f"there is no parquet file {lost}, which {CARD} declares; fetch it"
    else:
        found = {key: [n for p in each for n in _relative(folder, p)]
                 for key, each in declared.items()}  # fmt: skip
    rows = _rows(text)
    return found, next((why for key in found if (why := _wrong(folder, key, found, rows))), "")


def read(folder: Path) -> str:
    """The card's text without a byte-order mark; empty if there is no card."""
    card = folder / CARD
    return card.read_text(encoding="utf-8-sig") if card.is_file() else ""


def declared_splits(text: str) -> dict[str, list[str]]:
    """Configuration -> the splits that a card's text declares, each once."""
    return {
        str(entry.get("config_name") or DEFAULT): list(
            dict.fromkeys(split for split, _ in _paths(entry.get("data_files")))
        )
        for entry in _entries(_front_matter(text).get("configs"))
    }


def card_of_splits(found: Mapping[tuple[str, str], Sequence[str]]) -> str:
    """The text of a card that declares these splits and no others."""
    configs: dict[str, list[dict[str, Any]]] = {}
    for (config, split), names in found.items():
        configs.setdefault(config, []).append({"split": split, "path": list(names)})
    entries = [{"config_name": name, "data_files": each} for name, each in configs.items()]
    return f"---\n{yaml.safe_dump({'configs': entries}, sort_keys=False)}---\n"


def _front_matter(card: str) -> Mapping[str, Any]:
    """The YAML between the first two lines of dashes; empty if there is none."""
    found = re.match(r"\A---\s*\n(.*?)\n---", card, re.DOTALL)
    try:
        content = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return {}
    return content if isinstance(content, Mapping) else {}


def _entries(value: Any) -> list[Mapping[str, Any]]:
    """One entry or a list of entries, as a list; what is no mapping is left out."""
    several = value if isinstance(value, list) else [value]
    return [entry for entry in several if isinstance(entry, Mapping)]


def _paths(value: Any) -> Iterator[tuple[str, str]]:
    """(split, pattern) of an entry's ``data_files``; paths without a split belong to ``train``."""
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str):
            yield "train", item
        elif isinstance(item, Mapping) and "split" in item and "path" in item:
            paths = item["path"] if isinstance(item["path"], list) else [item["path"]]
            yield from ((str(item["split"]), str(path)) for path in paths)


def _rows(card: str) -> dict[tuple[str, str], int]:
    """(configuration, split) -> number of rows, as far as the card states it."""
    return {
        (str(info.get("config_name") or DEFAULT), str(split["name"])): split["num_examples"]
        for info in _entries(_front_matter(card).get("dataset_info"))
        for split in _entries(info.get("splits"))
        if "name" in split and type(split.get("num_examples")) is int
    }


def _outside(pattern: str) -> bool:
    return pattern.startswith("/") or "://" in pattern or ".." in PurePosixPath(pattern).parts


def _relative(folder: Path, pattern: str) -> list[str]:
    """Relative paths of the parquet files that match ``pattern``, sorted, without hidden ones.

    None match what is no pattern.
    """
    try:
        paths = list(folder.glob(pattern))
    except (ValueError, IndexError, NotImplementedError):  # what pathlib raises for "" or "**x"
        return []
    names = [path.relative_to(folder) for path in paths if path.is_file()]
    shown = [n for n in names if not any(part.startswith(".") for part in n.parts)]
    return sorted(str(name) for name in shown if name.suffix == ".parquet")


def _wrong(
    folder: Path, key: tuple[str, str], found: CardFiles, rows: Mapping[tuple[str, str], int]
) -> str:
    """What is wrong with the files of a split; empty if they are complete."""
    names, split = found[key], f" of the split {'/'.join(key)}" if any(key) else ""
    if not names:
        return f"there is no parquet file{split}; fetch it"
    if why := _shards(names):
        return why
    for name in names:
        if why := parquet.footer_fault(folder / name):
            return f"{folder / name} {why}"
    has = sum(parquet.rows(folder / name) for name in names)
    if not has:
        return f"the files{split} hold no rows; fetch them again"
    if key in rows and has != rows[key]:
        return (
            f"the files{split} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}) hold "
            f"{has:,} rows, and {CARD} says {rows[key]:,}; fetch them again"
        )
    return ""


def _shards(names: Sequence[str]) -> str:
    """Which shard is missing or there twice, for files whose names state the number of shards."""
    cuts: dict[str, dict[str, list[str]]] = {}
    for name in names:
        if cut := _SHARD.match(name):
            cuts.setdefault(cut["stem"], {}).setdefault(cut["count"], []).append(cut["number"])
    for stem, counts in cuts.items():
        if len(counts) > 1:
            several = " and into ".join(str(int(count)) for count in counts)
            return f"{stem.rstrip('-._')} is there cut into {several}; remove the old"
        [(said, numbers)] = counts.items()
        count, has = int(said), {int(number) for number in numbers}
        first = int(0 not in has and count in has)
        if lost := sorted(set(range(first, first + count)) - has):
            file = f"{stem}{lost[0]:0{len(numbers[0])}}-of-{said}"
            return f"{file} is missing ({len(lost)} of {count} shards)"
        if len(numbers) > count:
            stem = stem.rstrip("-._")
            return f"{stem} has a shard of {count} more than once; remove the older files"
    return ""
