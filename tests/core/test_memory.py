import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from coincide.system.memory import keep_freed_memory
torch.set_num_threads(1)
a = torch.ones(2 << 20)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for step in range(10):
        activations = [a + a for _ in range(8)]  # of 8 MiB, 2,048 pages
        del activations
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), keep_freed_memory(), faults())
"""
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "131072"}
"""glibc's first setting, kept: it gives every larger block back at once."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_what_a_step_frees_is_used_again_without_new_pages() -> None:
    out = subprocess.run(
        [sys.executable, "-c", FAULTS],
        capture_output=True, text=True, check=True, env={**os.environ, **RETURNED},
    )  # fmt: skip
    before, kept, after = out.stdout.split()
    assert kept == "True"
    assert int(after) < int(before) / 3, (before, after)
