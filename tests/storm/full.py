"""Disks without room, in every stage: a small tmpfs as root, else a limit on the size of files."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.storm.world import KINDS, contents, copied, run

CASES = (
    ("prepare", 300_000), ("features", 16_000), ("features", 700_000), ("select", 4_000),
    ("select", 60_000), ("train", 8_000), ("train", 400_000), ("train", 1_500_000),
    ("train", 4_500_000), ("evaluate", 8_000), ("evaluate", 400_000), ("ledger", 0), ("report", 0),
)  # fmt: skip
"""Stage, and the bytes that are left for it."""


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
def small_disk(place: Path, left: int, mount: bool) -> Iterator[int | None]:
    """``place`` on a disk of its own with ``left`` bytes free; else what limits a process so."""
    if not mount:
        yield max(left, 1)
        return
    aside = place.with_name(f"{place.name}-aside")
    shutil.rmtree(aside, ignore_errors=True)
    place.mkdir(exist_ok=True)
    place.rename(aside)
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2g", "none", str(place)], check=True)
    try:
        shutil.copytree(aside, place, dirs_exist_ok=True, symlinks=True)
        used = sum(-(-p.lstat().st_blocks * 512 // 4096) * 4096 for p in place.rglob("*"))
        size = f"size={used + left + 65536}"
        subprocess.run(["mount", "-o", f"remount,{size}", str(place)], check=True)
        free = shutil.disk_usage(place).free
        if free > left:
            with (place / "filler").open("wb") as handle:
                handle.write(b"\0" * max(0, free - left))
        yield None
        (place / "filler").unlink(missing_ok=True)
        subprocess.run(["mount", "-o", "remount,size=2g", str(place)], check=True)
        shutil.rmtree(aside)
        shutil.copytree(place, aside, symlinks=True)
    finally:
        subprocess.run(["umount", str(place)], check=True)
        place.rmdir()
        aside.rename(place)


def try_case(stage: str, left: int, whole: Path, folder: Path, mount: bool) -> str:
    """``clear`` when stage, place, free bytes and remedy are told and the next run is right."""
    kinds = KINDS.get(stage, ())
    world = copied(whole, folder / "world", kinds)
    words = {"ledger": "evaluate"}.get(stage, stage)
    names = ["features", "select", "train", "evaluate", "report"]
    until = names[: names.index(words) + 1] if words in names else ["features"]
    if stage == "report":
        until = ["report"]  # a report names the command that the ledger has of each result
    if stage in ("ledger", "report"):
        shutil.rmtree(world / {"ledger": "ledger", "report": "reports"}[stage])
    place = world / {"ledger": "ledger", "report": "reports"}.get(stage, "store")
    asked = f"stages=[{','.join(until)}]"
    with small_disk(place, left, mount) as limit:
        ended = run(world, asked, limit=limit)
    if ended.code == 0:
        return "room enough: nothing seen"
    last = ended.said.strip().splitlines()[-1][:160]
    wanted = ["bytes free", "full while writing"]
    if ended.code != 2 or "Traceback" in ended.said or not all(w in ended.said for w in wanted):
        return f"WRONG: rc {ended.code}: {last}"
    again = run(world, asked)
    good, now = contents(whole, kinds), contents(world, kinds)
    if stage == "prepare":  # the target model is prepared by the training
        good = {name: digest for name, digest in good.items() if name in now}
    if again.code or not now or now != good:
        return f"WRONG: not resumed: {again.said.strip().splitlines()[-1][:160]}"
    return "clear"


def try_all(whole: Path, folder: Path, only: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Every case, with what was seen."""
    mount = may_mount(folder)
    how = "a tmpfs of its own" if mount else "no right to mount: RLIMIT_FSIZE, which limits a file"
    print(f"Disks: {how}.", flush=True)
    found = []
    for stage, left in CASES:
        if not only or any(part in stage for part in only):
            seen = try_case(stage, left, whole, folder, mount)
            found.append((f"{stage}, {left:,} bytes", seen))
            print(f"| {found[-1][0]} | {seen} |", flush=True)
    return found
