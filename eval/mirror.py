"""Find a benchmark's dataset on this machine, identify its content, and download it.

lmms-eval's tasks name datasets of the hub, ``lmms-lab-encoder/<Name>``. They are read from
``<mirror>/lmms-lab-encoder/<Name>`` (parquet files and the README that declares their splits, as on
the hub), else from the hub's own cache; never over the network.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from coincide.protocols import Requirement
from coincide.schema import UserError
from coincide.system.files import read_cache, sha256_file, write_atomic, write_json
from coincide.terminal.progress import bar
from eval import card
from eval.card import Splits


@dataclass(frozen=True)
class Place:
    """Where the wanted splits of a dataset are on disk."""

    folder: Path
    revision: str | None
    """The hub's commit, in the hub's cache; None in a mirror."""
    files: Mapping[tuple[str, str], Sequence[str]]
    """(configuration, split) -> relative paths of its files."""

    @property
    def names(self) -> list[str]:
        """Relative paths of all files, sorted."""
        return sorted({name for names in self.files.values() for name in names})

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum((self.folder / name).stat().st_size for name in self.names)


def find(dataset: str, splits: Splits, mirror: Path | None) -> Place | None:
    """The splits in the mirror, else in the hub's cache; None if in neither. Reads no file."""
    if mirror is not None and (found := card.files(mirror / dataset, splits)):
        return Place((mirror / dataset).absolute(), None, found)
    cached = _hub_cache() / f"datasets--{dataset.replace('/', '--')}"
    with suppress(OSError):
        revision = (cached / "refs" / "main").read_text(encoding="utf-8").strip()
        folder = cached / "snapshots" / revision
        if found := card.files(folder, splits):
            return Place(folder.absolute(), revision, found)
    return None


def content(place: Place) -> str:
    """The dataset's identity for keys: the hub's commit, or a hash over all bytes of the files.

    Hashes are cached, by size and modification time, in the user's cache folder.
    """
    if place.revision:
        return place.revision
    memory = _memory(place.folder)
    known = _recall(memory)
    states = {name: _state(place.folder / name) for name in place.names}
    stale = [name for name in states if known.get(name, [])[:2] != states[name]]
    now = {name: known[name] for name in states if name not in stale}
    if stale:
        with bar(f"hash {place.folder.name}", total=len(stale), unit="file") as progress:
            for name in stale:
                now[name] = [*states[name], sha256_file(place.folder / name)]
                progress.update(1)
        with suppress(OSError):  # a read-only home costs time, not the answer
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_json(memory, {**known, **now})
    listed = [
        f"{config}\0{split}\0{name}\0{now[name][0]}\0{now[name][2]}\n"
        for (config, split), names in sorted(place.files.items())
        for name in names
    ]
    return hashlib.sha256("".join(listed).encode()).hexdigest()


def view(dataset: str, place: Place, digest: str, cache: Path) -> Path:
    """A folder in which ``dataset`` is a relative path to its files, as lmms-eval's tasks expect.

    It contains only the wanted splits, since the libraries convert everything that a card declares.
    Its name contains the content's ``digest``, and the libraries keep their caches inside: they
    identify a dataset by its name and would use what they derived from old files for new files in
    the same place.
    """
    named = hashlib.sha256(f"{digest}\0{sorted(place.files)}".encode()).hexdigest()
    root = cache / "benchmarks" / named[:16]
    for name in place.names:
        link = root / dataset / name
        if not link.is_symlink() or link.readlink() != place.folder / name:
            link.parent.mkdir(parents=True, exist_ok=True)
            temporary = link.with_name(f".{link.name}-{os.getpid()}")
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(place.folder / name)
            temporary.replace(link)
    if ("", "") not in place.files:
        _write_card(root / dataset, card.card_of_splits(place.files))
    elif (place.folder / card.CARD).is_file():  # it, or else the files' names, say what is what
        _write_card(root / dataset, card.read(place.folder))
    return root


def requirement(
    dataset: str, splits: Splits, names: Sequence[str], mirror: Path | None
) -> Requirement:
    """The presence of ``splits`` on this machine as a requirement of the benchmarks ``names``."""
    place = find(dataset, splits, mirror)
    name = f"dataset {dataset} ({', '.join(names)})"
    if place:
        size = f"{len(place.names)} files, {place.bytes / 1e9:.2f} GB"
        return Requirement(name, True, f"{place.folder}, {size}")
    if mirror is None:
        return Requirement(name, False, "not in the hub's cache", no_mirror(dataset))
    return Requirement(
        name, False, absence_reason(dataset, splits, mirror),
        "python -m coincide.prefetch, or copy the dataset's folder there",
        fetch=lambda: fetch(dataset, splits, mirror),
    )  # fmt: skip


def absence_reason(dataset: str, splits: Splits, mirror: Path) -> str:
    """Where the dataset was looked for, or which of its files is not complete."""
    where = mirror / dataset
    if not where.is_dir():
        return f"neither {where} nor the hub's cache has it"
    return f"{where} is not whole: {card.files_and_fault(where, splits)[1]}"


def missing_message(dataset: str, splits: Splits, mirror: Path | None) -> str:
    """Why a benchmark without its dataset cannot run, and what to do."""
    if mirror is None:
        return f"dataset {dataset} is not in the hub's cache. {no_mirror(dataset)}"
    if (mirror / dataset).is_dir():
        return f"dataset {dataset}: {absence_reason(dataset, splits, mirror)}."
    return (
        f"dataset {dataset} is neither in {mirror / dataset} nor in the hub's cache. Fetch it with "
        "python -m coincide.prefetch where there is a network, or copy its folder there."
    )


def no_mirror(dataset: str) -> str:
    """What to do if the suite has no mirror."""
    return f"Set eval.mirror to the folder that holds {dataset}."


def fetch(dataset: str, splits: Splits, mirror: Path) -> None:
    """Download the splits into the mirror, resuming an earlier try.

    The whole dataset if its card does not say which files the splits are. The library itself reads
    a token from ``HF_TOKEN``. Raises UserError if it fails.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    folder = mirror / dataset
    wanted: list[str] | None = [card.CARD]
    try:
        snapshot_download(dataset, repo_type="dataset", local_dir=folder, allow_patterns=wanted)
        declared = card.patterns(card.read(folder), splits)
        wanted = [path for paths in declared.values() for path in paths] if declared else None
        snapshot_download(dataset, repo_type="dataset", local_dir=folder, allow_patterns=wanted)
    except (HfHubHTTPError, OSError) as error:
        raise UserError(
            f"dataset {dataset} could not be fetched: {type(error).__name__}. Check the network "
            "and, where the hub asks for a login, HF_TOKEN; run it again to go on."
        ) from error
    if find(dataset, splits, mirror) is None:
        raise UserError(
            f"dataset {dataset} was fetched into {folder} and lacks files of the splits "
            f"{', '.join(f'{c}/{s}' for c, each in splits.items() for s in each)}: "
            f"{card.files_and_fault(folder, splits)[1]}."
        )


def _write_card(folder: Path, text: str) -> None:
    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomic(folder / card.CARD, write)


def _hub_cache() -> Path:
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    named = os.environ.get("HF_HUB_CACHE") or f"{home}/hub"
    return Path(named).expanduser()


def _memory(folder: Path) -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    name = hashlib.sha256(str(folder).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return base / "coincide" / "digests" / f"benchmark-{name}.json"


def _state(path: Path) -> list[object]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _recall(file: Path) -> dict[str, list[object]]:
    found = read_cache(file)
    sound = all(isinstance(entry, list) and len(entry) == 3 for entry in found.values())
    return found if sound else {}
