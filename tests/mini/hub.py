"""A repository in the Hugging Face cache, laid out by hand as ``snapshot_download`` leaves it."""

from __future__ import annotations

import shutil
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cache_repository(cache: Path, repo: str, folder: Path, commit: str = COMMIT) -> Path:
    """Put the files of ``folder`` into ``cache`` (``HF_HOME/hub``) as ``repo`` at ``main``."""
    root = cache / f"models--{repo.replace('/', '--')}"
    snapshot, blobs = root / "snapshots" / commit, root / "blobs"
    for made in (snapshot, blobs, root / "refs"):
        made.mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(commit)
    for number, file in enumerate(sorted(path for path in folder.iterdir() if path.is_file())):
        shutil.copyfile(file, blobs / f"{number:040x}")
        (snapshot / file.name).symlink_to(Path("..") / ".." / "blobs" / f"{number:040x}")
    return snapshot
