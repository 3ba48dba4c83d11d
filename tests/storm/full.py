"""Disks without room, in every stage: a small tmpfs as root, else a limit on the size of files."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.storm.world import KINDS, Ended, contents, copied, run

CASES = (
    ("prepare", 300_000), ("features", 16_000), ("features", 300_000), ("select", 4_000),
    ("select", 60_000), ("train", 8_000), ("train", 400_000), ("train", 1_500_000),
    ("train", 4_500_000), ("evaluate", 8_000), ("evaluate", 400_000), ("ledger", 0), ("report", 0),
)  # fmt: skip
"""Stage, and the bytes that are left for it."""
READ_ONLY = ("prepare", "features", "select", "train", "evaluate", "ledger", "report", "cached")
"""Stages for which the place of their results is read-only; ``cached``: nothing is to be written
into the store.
"""
PLACES = {"ledger": "ledger", "report": "reports"}
"""Where a stage writes, if not into the store."""
NAMES = {
    "prepare": ("data/", "model/"), "features": ("features/",), "select": ("clusters/", "subset/"),
    "train": ("adapter/",), "evaluate": ("eval/",), "ledger": ("ledger",), "report": ("report",),
}  # fmt: skip
"""What the message names: one of the artifacts of the stage."""


def may_mount(folder: Path) -> bool:
    """Whether a tmpfs can be mounted here."""
    probe = folder / "probe"
    probe.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0 or not shutil.which("mount"):
        return False
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(probe)], check=False
    )
    if done.returncode == 0:
        subprocess.run(["umount", str(probe)], check=False)
    return done.returncode == 0


@contextmanager
def small_disk(place: Path, left: int | None, mount: bool) -> Iterator[int | None]:
    """``place`` on a disk of its own with ``left`` bytes free, None: read-only.

    Without the right to mount: what limits the files of a process so, or folders that it may not
    write.
    """
    if not mount and left is None:
        folders = [place, *(p for p in place.rglob("*") if p.is_dir())]
        for folder in folders:
            folder.chmod(0o555)
        yield None
        for folder in folders:
            folder.chmod(0o755)
        return
    if not mount:
        yield max(left or 0, 1)
        return
    aside = place.with_name(f"{place.name}-aside")
    shutil.rmtree(aside, ignore_errors=True)
    place.mkdir(exist_ok=True)
    place.rename(aside)
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2g", "none", str(place)], check=True)
    try:
        shutil.copytree(aside, place, dirs_exist_ok=True, symlinks=True)
        _limit(place, left)
        yield None
        subprocess.run(["mount", "-o", "remount,rw,size=2g", str(place)], check=True)
        (place / "filler").unlink(missing_ok=True)
        shutil.rmtree(aside)
        shutil.copytree(place, aside, symlinks=True)
    finally:
        subprocess.run(["umount", str(place)], check=True)
        place.rmdir()
        aside.rename(place)


def _limit(place: Path, left: int | None) -> None:
    """Leave ``left`` bytes of the tmpfs at ``place``; None: make it read-only."""
    if left is None:
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        return
    used = sum(-(-p.lstat().st_blocks * 512 // 4096) * 4096 for p in place.rglob("*"))
    size = f"size={used + left + 65536}"
    subprocess.run(["mount", "-o", f"remount,{size}", str(place)], check=True)
    free = shutil.disk_usage(place).free
    if free > left:
        with (place / "filler").open("wb") as handle:
            handle.write(b"\0" * max(0, free - left))


def words_of(stage: str) -> str:
    """The command that ends with ``stage``."""
    if stage == "report":
        return "stages=[report]"  # a report names the command that the ledger has of each result
    names = ["features", "select", "train", "evaluate"]
    last = {"prepare": "features"}.get(stage, stage)
    return f"stages=[{','.join(names[: names.index(last) + 1] if last in names else names)}]"


def try_case(stage: str, left: int | None, whole: Path, folder: Path, mount: bool) -> str:
    """``clear`` when stage, artifact, place, remedy and of a full disk the free bytes are told, and
    the next run is right; with what was told.
    """
    kinds, asked = KINDS.get(stage, ()), words_of(stage)
    world = copied(whole, folder / "world", kinds)
    place = world / PLACES.get(stage, "store")
    if stage in PLACES:
        shutil.rmtree(place)
    with small_disk(place, left, mount) as limit:
        ended = run(world, asked, limit=limit)
    told = _told(ended, left is None)
    if stage == "cached":
        return "clear: runs" if ended.code == 0 else f"WRONG: rc {ended.code}: {told}"
    if ended.code != 2 or "Traceback" in ended.said or place.name not in told:
        return f"WRONG: rc {ended.code}: {told}"
    if not any(name in told for name in NAMES[stage]):
        return f"WRONG: what was written is not named: {told}"
    return _resumed(stage, run(world, asked), whole, world) or f"clear: {told}"


def _told(ended: Ended, read_only: bool) -> str:
    """The line of a run that tells of the disk; else its last one."""
    lines = ended.said.strip().splitlines()
    wanted = ("cannot be written",) if read_only else ("bytes free", "full while writing")
    return next((line for line in lines if all(w in line for w in wanted)), lines[-1])


def _resumed(stage: str, again: Ended, whole: Path, world: Path) -> str:
    """What is wrong with the run after the disk had room again; empty if nothing."""
    kinds = KINDS.get(stage, ())
    good, now = contents(whole, kinds), contents(world, kinds)
    if stage == "prepare":  # the target model is prepared by the training
        good = {name: digest for name, digest in good.items() if name in now}
    if again.code or not now or now != good:
        return f"WRONG: not resumed: {again.said.strip().splitlines()[-1][:160]}"
    return ""


def try_all(whole: Path, folder: Path, only: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Every case, with what was seen."""
    mount = may_mount(folder)
    how = "a tmpfs of its own" if mount else "no right to mount: RLIMIT_FSIZE, which limits a file"
    print(f"Disks: {how}.", flush=True)
    found = []
    for stage, left in [*CASES, *((stage, None) for stage in READ_ONLY)]:
        name = f"{stage}, " + ("read-only" if left is None else f"{left:,} bytes")
        if not only or any(part in name for part in only):
            found.append((name, try_case(stage, left, whole, folder, mount)))
            print(f"| {found[-1][0]} | {found[-1][1]} |", flush=True)
    return found
