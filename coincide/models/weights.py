"""Find published weights on this machine: a path, or a repository in the Hugging Face cache.

Only :func:`fetch` opens a connection; ``coincide.prefetch`` calls it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from coincide.models.headers import broken_files
from coincide.protocols import Requirement
from coincide.schema import UserError
from coincide.system.files import digest_of, read_cache, sha256_file, write_json
from coincide.terminal.progress import bar

SMALL = (".json", ".txt", ".model", ".tiktoken", ".jinja")
"""Configuration, vocabulary, chat template. Never ``.py``."""
SMALL_FILES = tuple(f"*{ending}" for ending in SMALL)
REPOSITORY = re.compile(r"\w[\w.-]*/[\w.-]+")
FORMS = {
    "model.safetensors.index.json": r"model(-\d+-of-\d+)?\.safetensors",
    "pytorch_model.bin.index.json": r"pytorch_model(-\d+-of-\d+)?\.bin",
}
"""Index file -> pattern of the weight files (shards) that it lists, preferred format first."""
GB = 10**9
SIZES = {
    "lmsys/vicuna-7b-v1.5": 13.5 * GB,
    "lmsys/vicuna-13b-v1.5": 26.0 * GB,
    "openai/clip-vit-large-patch14-336": 1.7 * GB,
    "liuhaotian/llava-v1.5-mlp2x-336px-pretrain-vicuna-7b-v1.5": 0.05 * GB,
    "liuhaotian/llava-v1.5-mlp2x-336px-pretrain-vicuna-13b-v1.5": 0.07 * GB,
    "bczhou/TinyLLaVA-2.0B": 3.3 * GB,
    "bczhou/TinyLLaVA-2.0B-SigLIP": 0.9 * GB,
}
"""Approximate download sizes in bytes, from number of parameters and precision."""


@dataclass(frozen=True)
class PretrainedCheckpoint:
    """Where pretrained weights come from: a repository on the Hugging Face Hub, or a path.

    ``repo``: ``owner/name``, possibly with ``@revision``; or a path that exists.
    """

    repo: str
    revision: str = ""
    files: tuple[str, ...] = ()
    """The only files needed; empty: a whole model. A path may be such a file itself."""

    @property
    def local(self) -> bool:
        """Whether ``repo`` is a path, existing or not."""
        return self._path.exists() or not REPOSITORY.fullmatch(self._where[0])

    @property
    def _path(self) -> Path:
        return Path(self.repo).expanduser()

    @property
    def _where(self) -> tuple[str, str]:
        """Repository and revision."""
        repo, _, revision = self.repo.partition("@")
        return repo, self.revision or revision or "main"

    @property
    def name(self) -> str:
        """The last part of ``repo``, without owner or parent folders."""
        return Path(self._where[0]).name if not self.local else self._path.absolute().name

    def folder(self) -> Path | None:
        """The folder with the files; None if it is not there. Reads no file."""
        if self.local:
            return self._path if self._path.exists() else None
        from huggingface_hub import try_to_load_from_cache

        repo, revision = self._where
        first = self.files[0] if self.files else "config.json"
        found = try_to_load_from_cache(repo, first, revision=revision)
        return Path(found).parent if isinstance(found, str) else None

    def small(self, *needed: tuple[str, ...]) -> PretrainedCheckpoint:
        """The same without weights: configuration, vocabulary, chat template.

        Of each of ``needed``, files that stand for one another, one has to be there.
        """
        folder = self.folder()
        there = folder.iterdir() if folder is not None and folder.is_dir() else ()
        names = [name for name in needed_files(path.name for path in there) if _is_small(name)]
        lacking = [others[0] for others in needed if not set(others) & set(names)]
        wanted = SMALL_FILES if lacking and not self.local else ()
        return replace(self, files=(*lacking, *names, *wanted))

    def paths(self) -> list[Path]:
        """Paths of the files needed. Raises :class:`UserError`, saying what to do, if any is
        missing.
        """
        requirement = self.requirement()
        folder = self.folder()
        if folder is None or not requirement.met:
            raise UserError(f"{requirement.name}: {requirement.found}. {requirement.remedy}")
        return _files(folder, self.files)

    def identity(self) -> dict[str, str]:
        """What the weights are, for a key: repository and commit, or the content of a path.

        A folder that was moved or renamed keeps its identity; a missing one only has its name.
        """
        folder = self.folder()
        repo, revision = self._where
        if folder is not None and self.local:
            return {"content": content(_files(folder, self.files))}
        commit = folder.name if folder is not None else revision
        known = folder is not None or re.fullmatch("[0-9a-f]{40}", revision)
        return {"repo": repo, "commit" if known else "revision": commit}

    def requirement(self) -> Requirement:
        """The files on this machine, as a requirement."""
        folder = self.folder()
        repo, revision = self._where
        absent = "no such path" if self.local else "not on this machine"
        lacking = absent if folder is None else missing_files(folder, self.files)
        if folder is not None and not lacking:
            lacking = "; ".join(broken_files(_files(folder, self.files)))
        met = not lacking
        found = f"{folder}: {lacking}" if folder and lacking else lacking or str(folder)
        if self.local:
            remedy = "Set it to a folder with a whole model as it was published, or to owner/name."
            return Requirement(f"weights {self.repo}", met, found, "" if met else remedy)
        at = "" if revision == "main" else f" --revision {revision}"
        remedy = f"python -m coincide.prefetch (or hf download {repo}{at}), or name a folder."
        return Requirement(
            f"weights {self.repo}",
            met,
            found,
            "" if met else remedy,
            bytes=int(SIZES.get(repo, 0)),
            fetch=partial(fetch, repo, revision, self.files),
        )


def needed_files(names: Iterable[str]) -> list[str]:
    """Those of ``names``, the files of a model folder, that are needed: safetensors rather than
    pickles.
    """
    top = sorted(name for name in names if "/" not in name)
    small = [name for name in top if _is_small(name)]
    for index, form in FORMS.items():
        weights = [name for name in top if re.fullmatch(form, name)]
        if weights:
            return sorted([*small, *weights, *({index} & set(top))])
    return small


def _is_small(name: str) -> bool:
    return name.endswith(SMALL) and ".index." not in name


def missing_files(folder: Path, files: Sequence[str] = ()) -> str:
    """In words: what ``folder`` lacks to be a whole model (or to contain ``files``).

    Empty: nothing.
    """
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    if files:
        missing = sorted(set(files) - names) if folder.is_dir() else []
    elif "config.json" not in names:
        missing = ["config.json"]
    else:
        indices = [name for name in needed_files(names) if name.endswith(".index.json")]
        if indices:
            index = json.loads((folder / indices[0]).read_text(encoding="utf-8"))
            missing = sorted(set(index["weight_map"].values()) - names)
        else:
            whole = {"model.safetensors", "pytorch_model.bin"} & names
            missing = [] if whole else ["model.safetensors or pytorch_model.bin"]
    return f"lacks {', '.join(missing)}" if missing else ""


def fetch(repo: str, revision: str, files: Sequence[str]) -> None:
    """Download the needed files of ``repo`` into the Hugging Face cache, resuming an earlier
    try.

    Raises UserError if that fails.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        needed = files or needed_files(HfApi().list_repo_files(repo, revision=revision))
        snapshot_download(repo, revision=revision, allow_patterns=list(needed))
    except Exception as error:  # no network, no such repository, a licence to accept ...
        raise UserError(f"{repo} could not be fetched: {error}") from error


def content(files: Sequence[Path]) -> str:
    """SHA-256 over names and bytes of ``files`` (only the bytes for a single file).

    Hashes are cached by size and modification time, like those of images.
    """
    known = read_cache(_cache_file(files))
    stamps = {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in files}
    now: dict[str, Any] = {n: known[n] for n in stamps if known.get(n, [])[:2] == stamps[n]}
    stale = [file for file in files if file.name not in now]
    if stale:
        with bar("hash weights", total=len(stale), unit="file") as progress:
            for file in stale:
                now[file.name] = [*stamps[file.name], sha256_file(file)]
                progress.update(1)
    if now != known:
        with suppress(OSError):  # a read-only home costs time, not the answer
            _cache_file(files).parent.mkdir(parents=True, exist_ok=True)
            write_json(_cache_file(files), now)
    if len(files) == 1:
        return str(now[files[0].name][2])
    parts = {name: entry[2] for name, entry in now.items()}
    return digest_of(parts)


def _files(folder: Path, only: Sequence[str]) -> list[Path]:
    if folder.is_file():
        return [folder]
    names = only or needed_files(path.name for path in folder.iterdir())
    return [folder / name for name in names if (folder / name).is_file()]


def _cache_file(files: Sequence[Path]) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    which = "\0".join(str(file.absolute()) for file in files)
    name = hashlib.sha256(which.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return Path(base) / "coincide" / "digests" / f"weights-{name}.json"
