"""Annotations in several files: the shards in a folder, ordered by name.

They must be one complete dataset. Refused are numbered shards with gaps, several splits, files of
two formats, and data files that are not read, since rows would be left out silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from coincide.data.report import FIRST
from coincide.schema import UserError

READ = re.compile(r"\.(parquet|json|jsonl|ndjson)(\.(gz|bz2|xz))?$", re.IGNORECASE)
UNREAD = re.compile(
    r"\.(arrow|feather|csv|tsv|orc|avro|lance|zst|lz4|zip|tar|tgz|7z|npz|npy|pkl|pickle|pt|h5|hdf5|db|"
    r"sqlite|mds|tfrecords?|webdataset)(\.(gz|bz2|xz))?$",
    re.IGNORECASE,
)
BROKEN = re.compile(
    r"\.(incomplete|part|partial|tmp|temp|crdownload|download|aria2|filepart)$", re.I
)
"""Files that programs leave while a download goes on, or when it broke off."""
NOTES = re.compile(r"(dataset_infos?|dataset_dict|state|metadata|config|schema|croissant)\.json$")
"""Files beside shards that contain no rows."""
NUMBERED = re.compile(r"(.*?)[-_.]?(\d+)-of-(\d+)(-[0-9a-f]+)?\.")
SPLITS = frozenset(
    {"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"}
)
SPLIT = re.compile(
    r"(?:^|[-_.])(train|training|test|testing|val|valid|validation|dev|eval)(?=[-_.\d]|$)",
    re.IGNORECASE,
)


def shards_of(path: Path) -> list[Path]:
    """The files with rows in the folder ``path``, by name; ``path`` itself if it is no folder.

    Hidden files, names that begin with ``_``, folders and notes (README, dataset_infos.json) do not
    count. Raises :class:`UserError` for a folder that is not one complete dataset.
    """
    if not path.is_dir():
        return [path]
    names = sorted(p.name for p in path.iterdir() if p.is_file() and p.name[0] not in "._")
    if cut := [name for name in names if BROKEN.search(name)]:
        raise UserError(
            f"data.annotations={str(path)!r}: {some(cut)}: downloads that did not end. Fetch them "
            "again, or remove them if their rows are not wanted."
        )
    if other := [name for name in names if UNREAD.search(name)]:
        raise UserError(
            f"data.annotations={str(path)!r}: this folder holds {some(other)}, which are not read "
            "as shards. Name one file, or a folder of Parquet, JSON or JSON lines files alone."
        )
    shards = [name for name in names if READ.search(name) and not NOTES.fullmatch(name)]
    if not shards:
        inner = sorted(p.name for p in path.iterdir() if p.is_dir() and p.name[0] not in "._")
        hint = f" It has the folders {some(inner)}: name one of them." if inner else ""
        raise UserError(
            f"data.annotations={str(path)!r} is a folder without a Parquet, JSON or JSON lines "
            f"file; it holds {some(names)}.{hint}"
        )
    refuse_parts(path, shards)
    return [path / name for name in shards]


def stamp_of(path: Path) -> list[object] | None:
    """Sizes and times of a file, or of a folder's shards with their names; None if there is
    none.
    """
    if path.is_file():
        return [path.stat().st_size, path.stat().st_mtime_ns]
    if not path.is_dir():
        return None
    found = [(shard.name, shard.stat()) for shard in shards_of(path)]
    return [[name, status.st_size, status.st_mtime_ns] for name, status in found]


def refuse_parts(path: Path, names: Sequence[str]) -> None:
    """Raise :class:`UserError` unless ``names``, the shards in the folder ``path``, may be one
    whole dataset: files of one kind and split, numbered without gaps and each once.
    """
    kinds = sorted(
        {match[1].lower().replace("ndjson", "jsonl") for match in map(READ.search, names) if match}
    )
    if len(kinds) > 1:
        raise UserError(
            f"data.annotations={str(path)!r}: files of several kinds ({', '.join(kinds)}): "
            f"{some(names)}. Name one file, or put the shards of one dataset alone into a folder."
        )
    families: dict[str, list[re.Match[str] | None]] = {}
    for name in names:
        number, split = NUMBERED.match(name), SPLIT.search(name)
        families.setdefault(number[1] if number else split[1].lower() if split else "", []).append(
            number
        )
    splits = {match[1].lower() for match in map(SPLIT.search, names) if match}
    if len(splits) > 1 or (len(families) > 1 and any(map(NUMBERED.match, names))):
        raise UserError(
            f"data.annotations={str(path)!r}: several splits or datasets in one folder "
            f"({some(sorted(families))}): {some(names)}. Name one file, or put the shards of one "
            "into a folder."
        )
    for found in families.values():
        _none_missing(path, [match for match in found if match])


def _none_missing(path: Path, found: Sequence[re.Match[str]]) -> None:
    totals = {int(match[3]) for match in found}
    there = sorted(int(match[2]) for match in found)
    if not found or (len(totals) == 1 and len(there) == len(set(there)) == max(totals)):
        return
    if len(totals) == 1 and len(there) > len(set(there)):
        raise UserError(
            f"data.annotations={str(path)!r}: shards of one number "
            f"({some(match.string for match in found)}). A dataset that was uploaded twice looks "
            "like this, and its rows would be read twice: remove those of the earlier upload."
        )
    raise UserError(
        f"data.annotations={str(path)!r}: {len(there):,} shards of "
        f"{' and '.join(map(str, sorted(totals)))} ({some(match.string for match in found)}). A "
        "download that broke off looks like this: fetch the others, or rename those that are to be "
        "read."
    )


def some(names: Iterable[str]) -> str:
    """The first of ``names``, for a message."""
    shown = [*map(repr, names)]
    return (
        ", ".join(shown[:FIRST]) + (", ..." if len(shown) > FIRST else "") if shown else "nothing"
    )
