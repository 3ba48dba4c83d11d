"""Each kind of damage to a store, and whether it is repaired or refused by name."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.storm.world import contents, copied, orphans, run, start

AFTER: dict[str, tuple[str, ...]] = {
    "data": ("features", "clusters", "subset"), "model": ("features", "clusters", "subset"),
    "features": ("clusters", "subset"), "clusters": ("subset",), "subset": ("adapter", "eval"),
    "adapter": ("eval",), "eval": (), "checkpoint": (), "ledger": (),
}  # fmt: skip
"""What is removed, so that the damaged artifact is read again."""
WORDS = {"data": "features,select", "model": "features,select", "features": "features,select",
         "clusters": "features,select", "subset": "features,select,train",
         "adapter": "features,select,train,evaluate",
         "eval": "features,select,train,evaluate", "checkpoint": "features,select,train",
         "ledger": "report"}  # fmt: skip
MADE = ("data", "model", "features", "clusters", "subset", "adapter", "eval")
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


def mark(path: Path) -> None:
    """As git leaves a file that two changed."""
    path.write_text(f"<<<<<<< HEAD\n{path.read_text()}=======\n>>>>>>> other\n")


def swap(path: Path) -> None:
    """Two neighbours that differ in each other's place, size and mtime the same."""
    status, content = path.stat(), bytearray(path.read_bytes())
    i = next(i for i in range(len(content) // 2, len(content)) if content[i] != content[i - 1])
    content[i], content[i - 1] = content[i - 1], content[i]
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def link(path: Path) -> None:
    """A link to its neighbour."""
    other = next(p for p in sorted(path.parent.iterdir()) if p.suffix == path.suffix and p != path)
    path.unlink()
    path.symlink_to(other)


def copy_beside(path: Path) -> None:
    """A file more that the same pattern names."""
    shutil.copy(path, path.with_name(path.name.replace("-0000", "-0009")))


def at(pattern: str, harm: Callable[[Path], None]) -> Callable[[Path], None]:
    """``harm`` on the last file of an artifact that matches: of checkpoints the newest."""
    return lambda folder: harm(max(folder.glob(pattern), key=lambda p: (len(str(p)), str(p))))


def renamed(folder: Path) -> None:
    """The artifact under another readable name."""
    folder.rename(folder.with_name(f"another-{folder.name.rsplit('-', 1)[1]}"))


def cases() -> Iterator[Case]:
    """All of them."""
    for name, pattern in FLIPPED.items():
        yield Case(f"{name}: a byte of {pattern}", name.split()[0], at(pattern, flip))
    for kind in MADE:
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
    yield Case("features: a shard's bytes swapped", "features", at("values-00002.npy", swap))
    yield Case("features: a shard is a link to another", "features", at("values-00001.npy", link))
    yield Case("features: a shard too many", "features", at("values-00001.npy", copy_beside))
    yield Case("eval: result.json's bytes swapped", "eval", at("result.json", swap))
    yield Case("model: config.json is a link", "model", at("model/config.json", link))
    yield Case("subset: under another name", "subset", renamed)
    yield from _unfinished()


def _unfinished() -> Iterator[Case]:
    """Of a training that was killed after a checkpoint, and of the ledger."""
    newest = "checkpoints/checkpoint-*"
    for name in ("*/*optim_states.pt", "*.safetensors", "trainer_state.json", "log.jsonl"):
        yield Case(f"checkpoint: a byte of {name}", "checkpoint", at(f"{newest}/{name}", flip))
    for harm, what in (
        (cut, "cut"),
        (empty, "emptied"),
        (Path.unlink, "missing"),
        (flip, "edited"),
    ):
        yield Case(f"checkpoint: marker {what}", "checkpoint", at(f"{newest}/complete", harm))
        yield Case(f"checkpoint: recipe.json {what}", "checkpoint", at("recipe.json", harm))
    yield Case("checkpoint: the attempt's log cut", "checkpoint", at("log.jsonl", cut))
    for harm, what in ((cut, "cut"), (empty, "emptied"), (mark, "with conflict marks")):
        yield Case(f"ledger: a result {what}", "ledger", at("*.json", harm))


def try_case(case: Case, whole: Path, folder: Path) -> str:
    """``repaired``, ``refused by name``, or what went wrong."""
    source = unfinished(whole, folder) if case.kind == "checkpoint" else whole
    world = copied(source, folder / "world", AFTER[case.kind])
    harmed = _chosen(world, case.kind)
    case.harm(harmed)
    words = f"stages=[{WORDS[case.kind]}]"
    ended = run(world, words)
    names = [p.name for p in harmed.iterdir()] if case.kind == "ledger" else [harmed.name]
    if ended.code == 2 and "Traceback" not in ended.said and any(n in ended.said for n in names):
        return "refused by name"
    if ended.code:
        return f"WRONG: rc {ended.code}: {ended.said.strip().splitlines()[-1][:150]}"
    good, now = contents(whole, MADE), contents(world, MADE)
    changed = [n for n in now if n in good and good[n] != now[n]]
    again = run(world, words)
    if changed:
        return f"WRONG: {', '.join(changed[:3])} differs"
    if again.code or "built again" in again.said or "hash mismatch" in again.said:
        return f"WRONG: not settled at the next start: {again.said.strip().splitlines()[-1][:150]}"
    return "repaired"


def _chosen(world: Path, kind: str) -> Path:
    """What is harmed: an artifact of the kind that the selection reads, the attempt
    at an adapter, or the ledger's folder.
    """
    if kind == "ledger":
        return world / "ledger"
    if kind == "checkpoint":
        return next((world / "store" / "adapter").glob(".partial-*"))
    found = sorted(p for p in (world / "store" / kind).iterdir() if not p.name.startswith("."))
    read = ("activations", "tiny_ref")
    return next((path for path in found if any(name in path.name for name in read)), found[0])


def unfinished(whole: Path, folder: Path) -> Path:
    """The undisturbed run with a training that was killed after a checkpoint; made once."""
    place = folder / "unfinished"
    if not place.exists():
        world = copied(whole, folder / "begun", ("adapter", "eval"))
        process = start(world, [f"stages=[{WORDS['checkpoint']}]"])
        kind = world / "store" / "adapter"
        while process.poll() is None and not list(kind.glob(".*/checkpoints/*/complete")):
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        orphans(world)
        world.rename(place)
    return place


def try_all(whole: Path, folder: Path, only: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Every case whose name holds one of ``only``, with what became of it."""
    found = []
    for case in cases():
        if not only or any(part in case.name for part in only):
            found.append((case.name, try_case(case, whole, folder)))
            print(f"| {found[-1][0]} | {found[-1][1]} |", flush=True)
    shutil.rmtree(folder / "world", ignore_errors=True)
    return found
