"""Content-addressed artifacts: ``<store>/<kind>/<name>-<12 hex>/`` with ``manifest.json`` last.

A :class:`Step` says what an artifact is (its key) and how to build it. Building happens in a
folder of its own that survives a kill, so a builder that skips the files it finds there resumes;
the finished folder gets its manifest, with the size and hash of every file, and is renamed into
place. Who reads checks what it reads against the manifest.
"""

from coincide.store.artifact import (
    MANIFEST,
    Artifact,
    DamagedArtifact,
    check_path,
    find_recorded,
    is_sealed,
    open_artifact,
    sealed,
)
from coincide.store.build import Build, drop_damaged, note_done
from coincide.store.step import Step
from coincide.store.store import Store

__all__ = [
    "MANIFEST",
    "Artifact",
    "Build",
    "DamagedArtifact",
    "Step",
    "Store",
    "check_path",
    "drop_damaged",
    "find_recorded",
    "is_sealed",
    "note_done",
    "open_artifact",
    "sealed",
]
