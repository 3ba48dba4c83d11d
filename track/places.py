"""Paths of the artifacts behind a result, for those that are still in a store."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coincide.schema import Result
from coincide.store import DamagedArtifact, located, open_artifact


@dataclass(frozen=True)
class ArtifactPaths:
    """Finds artifacts in a store, which may lack any of them."""

    store: Path

    def found(self, folders: Mapping[str, str]) -> dict[str, str]:
        """Kind -> absolute path, for those of ``folders`` (``<kind>/<name>-<12 hex>``) that
        exist.
        """
        paths = {kind: self.path(folder) for kind, folder in folders.items()}
        return {kind: str(path) for kind, path in paths.items() if path is not None}

    def path(self, folder: str) -> Path | None:
        """The finished artifact with that key, under any readable name; None if not there."""
        path = located(self.store.absolute(), folder)
        with suppress(DamagedArtifact):
            return open_artifact(path).path if path else None
        return None

    def selection(self, subset: str, result: Result) -> dict[str, str]:
        """Kind -> path of the subset, its clusters and scores, and the image folder."""
        found = self.found({"subset": subset})
        if not found:
            return {}
        needs = {
            name.rsplit(".", 1)[-1]: f"{name.rsplit('.', 1)[-1]}/{folder}"
            for name, folder in manifest(Path(found["subset"]))["needs"].items()
        }
        found |= self.found({k: needs[k] for k in ("clusters", "scores") if k in needs})
        pictures = self._pictures(needs.get("data", ""), result)
        return found | ({"pictures": str(pictures)} if pictures else {})

    def _pictures(self, data: str, result: Result) -> Path | None:
        stated: Any = result.config.get("data")
        images = stated.get("images") if isinstance(stated, Mapping) else None
        artifact = self.path(data)
        for path in (Path(images) if images else None, artifact and artifact / "images"):
            if path is not None and path.is_dir():
                return path.absolute()
        return None


def manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the artifact in ``folder``."""
    return dict(open_artifact(folder).manifest)


def intact(folder: Path) -> bool:
    """Whether the artifact in ``folder`` is undamaged; prints a message if not."""
    try:
        open_artifact(folder).check()
    except DamagedArtifact as error:
        print(f"track: {error} It is left out.", flush=True)
        return False
    return True
