"""How the allocator treats memory that is freed."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST = 32 << 20
"""Bytes: glibc takes no larger block into its heap."""


def keep_freed_memory() -> bool:
    """Have glibc keep freed blocks for the next ones, up to 32 MiB each, instead of returning them.

    By default it returns large blocks to the kernel at once, so that the activations of every step
    on a CPU are new pages, each cleared before its first use: 10 to 20 % of a small model's
    training. No value is changed. Returns False where there is no such allocator.
    """
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return False
    kept = libc.mallopt(M_MMAP_THRESHOLD, LARGEST) and libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    return bool(kept)
