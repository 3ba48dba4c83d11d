"""The GPUs of this machine, found without importing torch."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name and its memory in bytes."""

    name: str
    bytes: int


def gpus(environ: Mapping[str, str] | None = None) -> tuple[Gpu, ...]:
    """The GPUs that ``nvidia-smi`` lists, restricted to ``CUDA_VISIBLE_DEVICES``.

    None without it.
    """
    query = [
        "nvidia-smi",
        "--query-gpu=index,uuid,name,memory.total",
        "--format=csv,noheader,nounits",
    ]
    try:
        listed = subprocess.run(
            query, capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    found: dict[str, Gpu] = {}
    for line in listed.splitlines():
        index, uuid, name, mebibytes = (field.strip() for field in line.split(","))
        found[index] = found[uuid] = Gpu(name, int(mebibytes) * 2**20)
    environ = os.environ if environ is None else environ
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return tuple(gpu for key, gpu in found.items() if key.isdigit())
    return tuple(found[key] for key in visible.split(",") if key in found)
