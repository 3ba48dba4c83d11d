"""How many worker processes a pass has on this machine, on which devices, and as which rank.

Ranks are those of torchrun (``RANK``, ``LOCAL_RANK``) or of an ``srun`` step (``SLURM_PROCID``,
``SLURM_LOCALID``). All ranks work on the same pass, shard by shard, through claims in the shared
store.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from coincide.config import FeaturePass
from coincide.schema import UserError
from coincide.system.processes import available_cores

MOST_DECODERS = 16


@dataclass(frozen=True)
class Rank:
    """The position of this process among those that torchrun or srun started together."""

    rank: int = 0
    local_rank: int = 0
    local_ranks: int = 1
    """Processes started on this node."""


def rank_of(environment: Mapping[str, str] | None = None) -> Rank:
    """The rank that torchrun or srun gave this process; rank 0 of 1 where neither did."""
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
    """The device (torch name) of each worker process to start here.

    ``processes=auto``: one per visible GPU, or only this rank's GPU where a node has several ranks;
    one without GPUs. Raises UserError unless ``processes`` is ``auto`` or an int >= 1.
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
    """Number of decoding processes beside each worker.

    ``decode_workers=auto``: none on a CPU; on a GPU one less than the cores of each worker, at most
    ``MOST_DECODERS``, and no more than half of the free memory holds at ``decode_mb`` each.
    ``processes`` is the number of workers. Raises UserError unless the setting is ``auto`` or an
    int >= 0.
    """
    wanted = _count(options.decode_workers, "decode_workers", 0)
    if wanted is not None:
        return wanted
    if device == "cpu":
        return 0
    room = int(free_memory() / 2 / (options.decode_mb * 1e6 * processes))
    return max(1, min(MOST_DECODERS, available_cores() // processes - 1, room))


def free_memory() -> float:
    """Bytes of memory available to programs, file caches included; infinite if unknown."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    return float("inf")


def device_of(wanted: str) -> str:
    """The torch device for the setting ``wanted``.

    ``auto``: the first GPU if there is one, else ``cpu``.
    """
    import torch

    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def _count(value: object, name: str, least: int) -> int | None:
    """The setting as an int; None for ``auto``."""
    if value == "auto":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"features.{name}={value!r}: expected auto or an int >= {least}.")
    return value
