"""Does training start with the lines that an export prints? ``python start.py TRAINER FOLDER``, in
the trainer's environment.

Takes ``FOLDER/forms/odd/<trainer>/x.<trainer>.sh`` without its line that installs, puts the model
of 60,000 parameters in place of the one it names and what ``SMALL`` says beside it, runs it on the
CPU for two steps, and writes ``FOLDER/<trainer>-start.json``: the status, the last loss, the last
lines. Nothing of the product is imported.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

MODEL = "llava-hf/llava-1.5-7b-hf"
SMALL = {
    "llamafactory": "\nmax_steps: 2\nuse_cpu: true\nreport_to: none\nlogging_steps: 1\n",
    "swift": " --model_type llava1_5_hf --torch_dtype float32 --max_steps 2 --logging_steps 1"
    " --use_hf true --report_to none",
    "trl": "",
    "axolotl": "\nmax_steps: 2\nbf16: false\nfp16: false\nuse_wandb: false\nlogging_steps: 1\n",
}
"""What a tiny model on a CPU needs besides: added to the settings, or to the command."""
LIMIT = 3600
"""Seconds; a start that takes longer is stopped, and tried again by the next run."""


def main(trainer: str, folder: Path) -> None:
    """Start, wait for the end, write what was seen."""
    source = folder / "forms" / "odd" / trainer
    place = folder / "start" / trainer
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(source, place, ignore=shutil.ignore_patterns("out*", "output*"))
    for path in place.glob(f"x.{trainer}.*"):
        text = path.read_text().replace(str(source), str(place))
        text = text.replace(MODEL, str(folder / "model"))
        path.write_text(text + (SMALL[trainer] if path.suffix == ".yaml" else ""))
    lines = (place / f"x.{trainer}.sh").read_text().strip().split("\n")[1:]
    if trainer == "swift":
        lines[-1] += SMALL["swift"]
    paths = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": paths, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1",
                   "AXOLOTL_DO_NOT_TRACK": "1", "USE_HF": "1"}  # fmt: skip
    log = folder / f"{trainer}-start.log"
    with log.open("w") as handle:
        started = subprocess.Popen(
            ["bash", "-ec", "\n".join(lines)], cwd=place, env=environment, stdout=handle,
            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            status = started.wait(LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            raise SystemExit(f"{trainer}: not done in {LIMIT} s, see {log}") from None
    said = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace"))
    losses = re.findall(r"'(?:train_)?loss': '?([0-9.]+)", said)
    errors = re.findall(
        r"^\s*(?:[\w.]*\.)?((?!CalledProcess)\w*(?:Error|Exception): .*)$", said, re.MULTILINE
    )  # a launcher's own error says only that the trainer failed
    found = {"status": status, "losses": losses, "error": errors[-1] if errors else ""}
    (folder / f"{trainer}-start.json").write_text(json.dumps(found, indent=1))
    print(trainer, json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).resolve())
