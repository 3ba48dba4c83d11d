#!/usr/bin/env bash
# torch 2.14.1, CPU: set_num_threads(1) as the first call in a new Python thread does not last. The thread takes the number
# last set anywhere when it first asks for it or works in parallel, so a later set_num_threads(2) in the main thread makes it
# two. A get_num_threads right behind the set makes the thread's own number hold.
#
# seen: set alone: 2 threads after the main thread set 2
# seen: set, then get: 1 thread
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.14.1 numpy==2.4.6

cat >"$folder/show.py" <<'PYTHON'
import sys
from concurrent.futures import ThreadPoolExecutor

import torch


def alone():
    torch.set_num_threads(1)


def then_asked():
    torch.set_num_threads(1)
    torch.get_num_threads()


def later(initializer):
    """The number of threads that a pool's thread has after the main thread set 2."""
    torch.set_num_threads(1)
    with ThreadPoolExecutor(1, initializer=initializer) as pool:
        pool.submit(int).result()  # the thread has begun
        torch.set_num_threads(2)
        return pool.submit(torch.get_num_threads).result()


first, second = later(alone), later(then_asked)
print(f"set alone: {first} threads after the main thread set 2")
print(f"set, then get: {second} thread")
held = (first, second) == (2, 1)
print("as stated" if held else "DIFFERENT from what is stated")
sys.exit(not held)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" 2>"$folder/log" || { tail -n 20 "$folder/log" >&2; exit 1; }
