"""Each kind of damage to a store, and whether it is repaired or refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.storm.world import contents, copied, run

AFTER = {
    "data": ("features", "clusters", "subset"), "model": ("features", "clusters", "subset"),
    "features": ("clusters", "subset"), "clusters": ("subset",), "subset": ("adapter", "eval"),
    "adapter": ("eval",), "eval": (),
}  # fmt: skip
"""What is removed, so that the damaged artifact is read again."""
WORDS = {"data": "features,select", "model": "features,select", "features": "features,select",
         "clusters": "features,select", "subset": "features,select,train",
         "adapter": "features,select,train,evaluate",
         "eval": "features,select,train,evaluate"}  # fmt: skip
FLIPPED = {
    "features": "values-00001.npy", "clusters": "assignment.npy", "subset": "rows.npy",
    "subset answers": "subset.json", "adapter": "adapter/adapter_model.safetensors",
    "eval": "result.json", "data": "train.json", "data benchmark": "benchmarks/**/*.parquet",
    "data picture": "images/**/*.png", "model": "model/model.safetensors",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One damage: its name, the kind of artifact, and what does it to the artifact's folder."""

    name: str
    kind: str
    harm: Callable[[Path], None]


def flip(path: Path) -> None:
    """Another byte in the middle, size and name the same."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def rekey(path: Path) -> None:
    """The manifest of another artifact."""
    path.write_text(json.dumps({**json.loads(path.read_text()), "key": "f" * 64}))


def refact(path: Path) -> None:
    """A figure of the manifest changed."""
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, "seconds": found["seconds"] + 1}))


def at(pattern: str, harm: Callable[[Path], None]) -> Callable[[Path], None]:
    """``harm`` on the first file of an artifact that matches."""
    return lambda folder: harm(sorted(folder.glob(pattern))[0])


def renamed(folder: Path) -> None:
    """The artifact under another readable name."""
    folder.rename(folder.with_name(f"another-{folder.name.rsplit('-', 1)[1]}"))


def cases() -> Iterator[Case]:
    """All of them."""
    for name, pattern in FLIPPED.items():
        yield Case(f"{name}: a byte of {pattern}", name.split()[0], at(pattern, flip))
    for kind in AFTER:
        for harm in (cut, Path.unlink, rekey):
            what = {"cut": "cut", "unlink": "missing", "rekey": "of another key"}[harm.__name__]
            yield Case(f"{kind}: manifest {what}", kind, at("manifest.json", harm))
    yield Case("eval: manifest emptied", "eval", at("manifest.json", empty))
    yield Case("subset: manifest edited", "subset", at("manifest.json", refact))
    for kind, pattern in {
        "features": "values-00000.npy", "clusters": "centroids.npy", "subset": "subset.json",
        "adapter": "adapter/adapter_model.safetensors", "eval": "result.json",
        "data": "train.json", "model": "model/config.json",
    }.items():  # fmt: skip
        yield Case(f"{kind}: {pattern} missing", kind, at(pattern, Path.unlink))
    yield Case("features: a shard cut", "features", at("values-00002.npy", cut))
    yield Case("subset: under another name", "subset", renamed)


def try_case(case: Case, whole: Path, folder: Path) -> str:
    """``repaired``, ``refused by name``, or what went wrong."""
    world = copied(whole, folder / "world", AFTER[case.kind])
    artifact = _chosen(world / "store" / case.kind)
    case.harm(artifact)
    words = f"stages=[{WORDS[case.kind]}]"
    ended = run(world, words)
    if ended.code == 2 and artifact.name in ended.said and "Traceback" not in ended.said:
        return "refused by name"
    if ended.code:
        return f"WRONG: rc {ended.code}: {ended.said.strip().splitlines()[-1][:150]}"
    kinds = [kind for kind in AFTER if (world / "store" / kind).is_dir()]
    good, now = contents(whole, kinds), contents(world, kinds)
    keys = {n: n.replace("another-", "") for n in now}
    changed = [n for n in now if good.get(n) != now[n] and "another-" not in keys and n in good]
    again = run(world, words)
    if changed:
        return f"WRONG: {', '.join(changed[:3])} differs"
    if again.code or "built again" in again.said or "hash mismatch" in again.said:
        return f"WRONG: not settled at the next start: {again.said.strip().splitlines()[-1][:150]}"
    return "repaired"


def _chosen(kind: Path) -> Path:
    """An artifact of the kind; of the features one that is read whole."""
    found = sorted(path for path in kind.iterdir() if not path.name.startswith("."))
    return next((path for path in found if "activations" in path.name), found[0])


def try_all(whole: Path, folder: Path, only: str = "") -> list[tuple[str, str]]:
    """Every case whose name holds ``only``, with what became of it."""
    found = []
    for case in cases():
        if only in case.name:
            found.append((case.name, try_case(case, whole, folder)))
            print(f"| {found[-1][0]} | {found[-1][1]} |", flush=True)
    shutil.rmtree(folder / "world", ignore_errors=True)
    return found
