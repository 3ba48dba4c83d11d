"""Where a benchmark's dataset lies on this machine, what its content is, and how to fetch it.

lmms-eval's tasks name datasets of the hub, ``lmms-lab-encoder/<Name>``. They are read from
``<mirror>/lmms-lab-encoder/<Name>`` (parquet files and the README that declares their
configurations, as the hub holds them), else from the hub's own cache; never over the network.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from coincide.progress import bar
from coincide.requirements import Requirement
from coincide.schema import UserError
from coincide.store import sha256_file, write_json


@dataclass(frozen=True)
class Place:
    """A dataset on disk."""

    folder: Path
    revision: str | None
    """The hub's commit, where it is in the hub's cache; None in a mirror."""


def find(dataset: str, mirror: Path | None) -> Place | None:
    """The dataset in the mirror, else in the hub's cache, else None. Only looks."""
    if mirror is not None and next(data_files(mirror / dataset), None):
        return Place((mirror / dataset).absolute(), None)
    cached = _hub_cache() / f"datasets--{dataset.replace('/', '--')}"
    with suppress(OSError):
        revision = (cached / "refs" / "main").read_text(encoding="utf-8").strip()
        folder = cached / "snapshots" / revision
        if next(data_files(folder), None):
            return Place(folder.absolute(), revision)
    return None


def data_files(folder: Path) -> Iterator[Path]:
    """The files that make up a dataset, hidden ones and their folders left out."""
    if not folder.is_dir():
        return
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.suffix in (".parquet", ".md", ".json", ".jsonl") and path.is_file():
            yield path


def content(place: Place) -> str:
    """What the key of a result holds: the hub's commit, or a hash over every byte of the files.

    What was hashed is remembered with size and modification time in the user's cache folder.
    """
    if place.revision:
        return place.revision
    memory = _memory(place.folder)
    known = _recall(memory)
    files = {str(path.relative_to(place.folder)): path for path in data_files(place.folder)}
    states = {name: [p.stat().st_size, p.stat().st_mtime_ns] for name, p in files.items()}
    stale = [name for name in files if known.get(name, [])[:2] != states[name]]
    now = {name: [*states[name], known[name][2]] for name in files if name not in stale}
    if stale:
        with bar(f"hash {place.folder.name}", total=len(stale), unit="file") as progress:
            for name in stale:
                now[name] = [*states[name], sha256_file(files[name])]
                progress.update(1)
    if now != known:
        with suppress(OSError):  # a read-only home costs time, not the answer
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_json(memory, now)
    listed = "".join(f"{name}\0{now[name][0]}\0{now[name][2]}\n" for name in sorted(now))
    return hashlib.sha256(listed.encode()).hexdigest()


def view(dataset: str, place: Place, digest: str, cache: Path) -> Path:
    """A folder in which ``dataset`` is a relative path to its files, as lmms-eval's tasks want.

    Named by the content, and the libraries keep their caches inside: they know a dataset by its
    name, and would answer for new files at an old path with what they derived from the old ones.
    """
    root = cache / "benchmarks" / digest[:16]
    link = root / dataset
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink() or link.readlink() != place.folder:
        temporary = link.with_name(f".{link.name}-{os.getpid()}")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(place.folder, target_is_directory=True)
        temporary.replace(link)
    return root


def requirement(dataset: str, names: list[str], mirror: Path | None) -> Requirement:
    """That ``dataset`` is on this machine, for the benchmarks ``names``."""
    place = find(dataset, mirror)
    name = f"dataset {dataset} ({', '.join(names)})"
    if place:
        size = sum(path.stat().st_size for path in data_files(place.folder))
        return Requirement(name, True, f"{place.folder}, {size / 1e9:.2f} GB")
    if mirror is None:
        return Requirement(name, False, "not in the hub's cache", no_mirror(dataset))
    where = mirror / dataset
    return Requirement(
        name, False, f"neither {where} nor the hub's cache has it",
        f"python -m coincide.prefetch, or copy the dataset's folder to {where}",
        fetch=lambda: fetch(dataset, mirror),
    )  # fmt: skip


def missing(dataset: str, mirror: Path | None) -> str:
    """Why a benchmark cannot run, and what to do."""
    if mirror is None:
        return f"dataset {dataset} is not in the hub's cache. {no_mirror(dataset)}"
    return (
        f"dataset {dataset} is neither in {mirror / dataset} nor in the hub's cache. Fetch it with "
        "python -m coincide.prefetch where there is a network, or copy its folder there."
    )


def no_mirror(dataset: str) -> str:
    """What to do when the suite has no mirror."""
    return f"Set eval.mirror to the folder that holds {dataset}."


def fetch(dataset: str, mirror: Path) -> None:
    """Download the dataset into the mirror, resuming what a former try left.

    A token is read from ``HF_TOKEN`` by the library itself. Raises UserError where it fails.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    folder = mirror / dataset
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        snapshot_download(dataset, repo_type="dataset", local_dir=partial)
    except (HfHubHTTPError, OSError) as error:
        raise UserError(
            f"dataset {dataset} could not be fetched: {type(error).__name__}. Check the network "
            "and, where the hub asks for a login, HF_TOKEN; run it again to go on."
        ) from error
    partial.rename(folder)


def _hub_cache() -> Path:
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    named = os.environ.get("HF_HUB_CACHE") or f"{home}/hub"
    return Path(named).expanduser()


def _memory(folder: Path) -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    name = hashlib.sha256(str(folder).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return base / "coincide" / "digests" / f"benchmark-{name}.json"


def _recall(file: Path) -> dict[str, list[object]]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    sound = isinstance(found, dict) and all(
        isinstance(entry, list) and len(entry) == 3 for entry in found.values()
    )
    return found if sound else {}
