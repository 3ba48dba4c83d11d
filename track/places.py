"""Where the artifacts behind a result lie, of those that are still in a store."""

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
    """A store. It may lack any artifact, or all of them."""

    store: Path

    def found(self, folders: Mapping[str, str]) -> dict[str, str]:
        """Kind -> absolute path of those ``folders`` (``<kind>/<name>-<12 hex>``) that are here."""
        paths = {kind: self.path(folder) for kind, folder in folders.items()}
        return {kind: str(path) for kind, path in paths.items() if path is not None}

    def path(self, folder: str) -> Path | None:
        """The finished artifact of that content key, whatever readable name it was built under."""
        path = located(self.store.absolute(), folder)
        with suppress(DamagedArtifact):
            return open_artifact(path).path if path else None
        return None

    def selection(self, subset: str, result: Result) -> dict[str, str]:
        """The subset, the clusters and scores that it was chosen by, the folder of the pictures."""
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
    """What the store recorded of the artifact in ``folder``."""
    return dict(open_artifact(folder).manifest)


def intact(folder: Path) -> bool:
    """Whether the artifact in ``folder`` is what was written; says so where it is not."""
    try:
        open_artifact(folder).check()
    except DamagedArtifact as error:
        print(f"track: {error} It is left out.", flush=True)
        return False
    return True
