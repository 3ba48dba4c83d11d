"""Files of a dataset repository on the Hugging Face Hub: what they are, and fetching them.

The hub's list of files is asked for once, and kept with their sizes and SHA-256 in ``.prepare/``
below the dataset's folder, so that later looks need no network and a pool stays of one commit. Each
file is downloaded as any other (:mod:`coincide.data.download`): resumed, compared with size and
hash, and in its place only when it is whole.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import quote

from coincide.data.download import HUB, Download
from coincide.data.images import unsafe_reason
from coincide.data.presence import WORK
from coincide.schema import UserError
from coincide.system.files import read_cache, write_json

LISTING = "listing.json"
CARD = "README.md"
_PART = re.compile(r"(.+)(?:_part|\.part|\.)(?:\d+|[a-z]{2})$")
"""A part of an archive that was cut: ``allava.tar.gz_part3``, ``coco.tar.00``, ``x.tar.aa``."""
_ARCHIVE = (".tar", ".tar.gz", ".tgz", ".zip")


@dataclass(frozen=True)
class HubFile:
    """A file of a repository."""

    path: str
    size: int
    sha256: str = ""
    """Of large files, as the hub states it; empty: not stated."""


@dataclass(frozen=True)
class HubFiles:
    """Which files of a dataset repository make up a dataset."""

    repo: str
    """``owner/name``."""
    revision: str = "main"
    """Commit, tag or branch; of a branch, the commit that it was at when its files were listed."""
    files: Sequence[str] = ("*.parquet", CARD)
    """Patterns of their paths; ``*`` matches folders, too."""
    about: int = 0
    """Bytes together, for planning before they are listed; 0 if not known."""

    def listed(self, root: Path) -> list[HubFile]:
        """Its files by path, as they were listed for ``root``; empty if they were not yet."""
        known = read_cache(root / WORK / LISTING)
        if (known.get("repo"), known.get("revision")) != (self.repo, self.revision):
            return []
        found = (HubFile(*each) for each in known.get("files", ()))
        return [file for file in found if self._wanted(file.path)]

    def download_of(self, root: Path, file: HubFile) -> Download:
        """``file`` at the commit that was listed."""
        commit = read_cache(root / WORK / LISTING)["commit"]
        url = f"{HUB}/datasets/{self.repo}/resolve/{commit}/{quote(file.path)}"
        return Download(file.path, url, file.path, bytes=file.size, sha256=file.sha256)

    def list_files(self, root: Path) -> list[HubFile]:
        """Ask the hub for the files, unless they are listed already. UserError if it fails."""
        if found := self.listed(root):
            return found
        commit, files = _ask(self.repo, self.revision)
        wrong = [f.path for f in files if self._wanted(f.path) and unsafe_reason(f.path)]
        if wrong:
            raise UserError(f"{self.repo} lists {wrong[0]!r}, which leads out of its folder.")
        if not any(self._wanted(file.path) for file in files):
            raise UserError(
                f"{self.repo} at {self.revision} has {len(files):,} files, and none is "
                f"{' or '.join(self.files)}."
            )
        said = [[file.path, file.size, file.sha256] for file in files]
        known = {"repo": self.repo, "revision": self.revision, "commit": commit, "files": said}
        (root / WORK).mkdir(parents=True, exist_ok=True)
        write_json(root / WORK / LISTING, known)
        return self.listed(root)

    def _wanted(self, path: str) -> bool:
        return any(fnmatchcase(path, pattern) for pattern in self.files) and not any(
            part.startswith(".") for part in path.split("/")
        )


def _ask(repo: str, revision: str) -> tuple[str, list[HubFile]]:
    """The commit that ``revision`` is at, and its files by path."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUB
    api = HfApi(endpoint=endpoint, token=os.environ.get("HF_TOKEN") or False)
    try:
        commit = str(api.dataset_info(repo, revision=revision).sha)
        tree = api.list_repo_tree(repo, repo_type="dataset", revision=commit, recursive=True)
        found = [
            HubFile(file.path, file.size, file.lfs.sha256 if file.lfs else "")
            for file in tree
            if isinstance(file, RepoFile)
        ]
    except Exception as error:  # no network, no such repository, a licence to accept ...
        first = str(error).strip().split("\n", 1)[0]
        raise UserError(
            f"the files of {repo} could not be listed: {type(error).__name__}: {first}. Where it "
            "needs a login, accept its terms on its page and set HF_TOKEN; without a network, "
            "prepare it on a machine that has one, or fetch it there by "
            f"`hf download --repo-type dataset {repo} --revision {revision} --local-dir FOLDER`."
        ) from error
    return commit, sorted(found, key=lambda file: file.path)


def is_there(root: Path, file: HubFile) -> bool:
    """Whether ``file`` lies below ``root`` with its size."""
    path = root / file.path
    return path.is_file() and path.stat().st_size == file.size


def archive_of(path: str) -> str:
    """The archive that a file is, or is a part of; empty for other files."""
    found = None if path.endswith(_ARCHIVE) else _PART.fullmatch(path)
    whole = found[1] if found else path
    return whole if whole.endswith(_ARCHIVE) else ""


def card_rows(folder: Path) -> dict[str, int]:
    """Configuration -> rows of its split ``train`` that the dataset's card in ``folder`` states.

    Empty without a card, and where it states none.
    """
    import yaml

    path = folder / CARD
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    head = re.match(r"\ufeff?---\s*\n(.*?)\n---", text, re.DOTALL)
    try:
        found = yaml.safe_load(head[1]) if head else None
    except yaml.YAMLError:
        return {}
    stated = found.get("dataset_info") if isinstance(found, dict) else None
    entries = stated if isinstance(stated, list) else [stated]
    return {
        str(entry["config_name"]): split["num_examples"]
        for entry in entries
        if isinstance(entry, dict) and entry.get("config_name")
        for split in entry.get("splits") or ()
        if isinstance(split, dict) and split.get("name") == "train"
        if isinstance(split.get("num_examples"), int)
    }
