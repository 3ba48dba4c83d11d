"""Where the workers of a pass run: how many processes here, on which devices, among which ranks.

Ranks are those of torchrun (``RANK``, ``LOCAL_RANK``) or of an ``srun`` step (``SLURM_PROCID``,
``SLURM_LOCALID``). Every rank works at the same pass, shard by shard, through the claims in the
shared store.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from coincide.config import FeaturePass
from coincide.schema import UserError

MOST_DECODERS = 16


@dataclass(frozen=True)
class Rank:
    """This process among those that were started together."""

    rank: int = 0
    local_rank: int = 0
    local_ranks: int = 1
    """Processes started on this node."""


def rank_of(environment: Mapping[str, str] | None = None) -> Rank:
    """The rank that torchrun or srun gave this process; the only one, where neither did."""
    env = os.environ if environment is None else environment
    if "WORLD_SIZE" in env and "RANK" in env:
        local = int(env.get("LOCAL_RANK", "0"))
        return Rank(int(env["RANK"]), local, int(env.get("LOCAL_WORLD_SIZE", local + 1)))
    tasks = int(env.get("SLURM_STEP_NUM_TASKS", "1"))
    if tasks > 1 and "SLURM_PROCID" in env:
        nodes = int(env.get("SLURM_STEP_NUM_NODES", "1"))
        return Rank(
            int(env["SLURM_PROCID"]), int(env.get("SLURM_LOCALID", "0")), -(-tasks // nodes)
        )
    return Rank()


def devices_of(options: FeaturePass, rank: Rank) -> list[str]:
    """The device of each process to run here, torch names.

    ``processes=auto``: one per GPU that is seen, or the one of this rank where a node has several
    ranks; one on a CPU. Raises UserError for another count than ``auto`` or an int >= 1.
    """
    wanted = _count(options.processes, "processes", 1)
    device = device_of(options.device)
    devices = [device]
    if device == "cuda":
        import torch

        devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        if rank.local_ranks > 1:
            devices = [devices[rank.local_rank % len(devices)]]
    number = len(devices) if wanted is None else wanted
    return [devices[i % len(devices)] for i in range(number)]


def decoders_of(options: FeaturePass, device: str, processes: int) -> int:
    """Decoding processes beside each worker; ``auto``: none on a CPU, else the cores there are, and
    no more than half of the free memory holds at ``decode_mb`` each.
    """
    wanted = _count(options.decode_workers, "decode_workers", 0)
    if wanted is not None:
        return wanted
    if device == "cpu":
        return 0
    room = int(free_memory() / 2 / (options.decode_mb * 1e6 * processes))
    return max(1, min(MOST_DECODERS, cores() // processes - 1, room))


def free_memory() -> float:
    """Bytes that programs could still take, file caches given back; infinite where the system does
    not tell."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    return float("inf")


def device_of(wanted: str) -> str:
    """``wanted``, or for ``auto`` the first GPU where there is one, else ``cpu``."""
    import torch

    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _count(value: object, name: str, least: int) -> int | None:
    """None for ``auto``."""
    if value == "auto":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"features.{name}={value!r}: expected auto or an int >= {least}.")
    return value
