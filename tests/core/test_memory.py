import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from coincide.system.memory import keep_freed_memory
torch.set_num_threads(1)
def faults():
    a = torch.ones(2 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        a + a
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first = faults()
print(keep_freed_memory(), first, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_freed_blocks_are_used_again_without_new_pages() -> None:
    out = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    kept, before, after = out.stdout.split()
    assert kept == "True"
    assert int(after) < int(before) / 4, "8 MiB blocks: 2,048 pages each"
