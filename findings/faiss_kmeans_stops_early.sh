#!/usr/bin/env bash
# faiss-cpu 1.15.1: Kmeans(niter=20) may run far fewer than 20 iterations. early_stop_threshold is 0.0 by default, which
# does not mean "never": training ends once the objective no longer falls. Times "for 20 iterations" are then of fewer,
# and only len(kmeans.obj) says of how many. A negative threshold runs them all.
#
# seen: default: early_stop_threshold 0.0, fewer than 20 iterations
# seen: -1.0: 20 iterations
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile faiss-cpu==1.15.1 numpy==2.4.6

cat >"$folder/show.py" <<'PYTHON'
import sys

import faiss
import numpy as np

rows = np.random.default_rng(0).standard_normal((10_000, 320)).astype(np.float32)


def run(**more):
    """A clustering told to take 20 iterations, and how many it took."""
    kmeans = faiss.Kmeans(320, 1000, niter=20, seed=1, **more)
    kmeans.train(rows)
    return kmeans.cp.early_stop_threshold, len(kmeans.obj)


threshold, taken = run()
_, whole = run(early_stop_threshold=-1.0)
print(f"default: early_stop_threshold {threshold}, {'fewer than 20' if taken < 20 else taken} iterations ({taken})")
print(f"-1.0: {whole} iterations")
held = threshold == 0.0 and taken < 20 and whole == 20
print("as stated" if held else "DIFFERENT from what is stated")
sys.exit(not held)
PYTHON
OMP_NUM_THREADS=1 "$folder/venv/bin/python" "$folder/show.py" 2>"$folder/log" || { tail -n 20 "$folder/log" >&2; exit 1; }
