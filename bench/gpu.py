"""Print what the dear stages cost on one GPU, within 8 minutes; nothing is downloaded.

    python -m bench.gpu --json gpu.json                # one GPU of the H100 class: real shapes
    python -m bench.gpu --only kmeans knn
    python -m bench.gpu --device cpu --shape tiny      # seconds: that every part runs at all

Random weights and made data (``bench.gpu_stages``, ``bench.gpu_ops``). Every part runs in a
process of its own, which is stopped at its limit; a part that fails or is stopped does not end the
others, and what it had measured until then is kept. A size that would not fit into the limit is
cut, and the table says so. The table is Markdown, for docs/SCALE.md; the JSON has the same with
hardware and versions.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

LIMITS: Mapping[str, int] = {
    "features": 95, "train": 70, "evaluate": 120, "kmeans": 100, "knn": 40, "mmd": 45,
}  # fmt: skip
"""Seconds of each part, its imports and its model's making included."""
STAGES = ("features", "train", "evaluate")
"""The parts that run models."""
MINUTES = 8.0
"""Of all parts together."""
TINY_LIMIT = 300
"""Seconds of each part in tiny shapes, for a CPU that has other work."""
PLANNED = 0.75
"""Share of a limit that sizes are planned for; the rest is for imports and estimates gone wrong."""


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the parts and print the table; returns what ``--json`` writes.

    Ends with an explanation where there is no GPU and the tiny shapes were not asked for.
    """
    asked = parsed(arguments)
    if asked.part:
        return child(asked)
    require_device(asked.device, asked.shape)
    report: dict[str, Any] = {"device": asked.device, "shape": asked.shape, "parts": {}}
    until = time.monotonic() + 60 * asked.minutes
    for name in asked.only:
        print(f"{name} ...", file=sys.stderr, flush=True)
        limit = LIMITS[name] if asked.shape == "full" else TINY_LIMIT
        report["parts"][name] = in_own_process(name, asked, min(limit, until - time.monotonic()))
        if asked.json:  # after each part: what is measured is kept
            asked.json.write_text(
                json.dumps(with_environment_once(report), indent=1) + "\n", encoding="utf-8"
            )
    print(table(with_environment_once(report)))
    return with_environment_once(report)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=LIMITS, default=list(LIMITS))
    parser.add_argument("--shape", choices=("full", "tiny"), default="full")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of all parts together")
    parser.add_argument("--json", type=Path, help="file for figures, hardware and versions")
    parser.add_argument("--part", choices=LIMITS, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def require_device(device: str, shape: str) -> None:
    """SystemExit, with what to do, if ``shape`` cannot be measured on ``device`` here."""
    tiny = "python -m bench.gpu --device cpu --shape tiny"
    if device == "cpu":
        if shape != "tiny":
            raise SystemExit(
                "got --device cpu with the real shapes, which take hours there; expected a GPU. "
                f"To see that the parts run at all: {tiny}"
            )
        return
    import torch

    if not torch.cuda.is_available():
        raise SystemExit(
            f"torch {torch.__version__} sees no GPU; expected one of the H100 class (80 GB). Run "
            "this where `nvidia-smi` lists one, with a torch built for its driver. To see that "
            f"the parts run at all: {tiny}"
        )


def in_own_process(name: str, asked: argparse.Namespace, limit: float) -> dict[str, Any]:
    """What the part ``name`` found in a process of its own that ends after ``limit`` seconds."""
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder) / "found.json"
        words = [sys.executable, "-m", "bench.gpu", "--part", name, "--shape", asked.shape]
        words += ["--device", asked.device, "--seconds", str(limit), "--json", str(into)]
        return run_limited(words, limit, into)


def run_limited(words: Sequence[str], limit: float, into: Path) -> dict[str, Any]:
    """What the command ``words`` left in ``into``, its outcome and its seconds.

    It and its children are killed after ``limit`` seconds. Outcomes: ``done``, ``failed`` (with the
    end of what it printed as ``error``), ``stopped``, and ``no time left`` where it did not begin.
    """
    if limit <= 0:
        return {"outcome": "no time left", "seconds": 0.0}
    began = time.monotonic()
    environment = {**os.environ, "TMPDIR": str(into.parent), "HF_HUB_OFFLINE": "1"}
    with (into.parent / "log").open("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            list(words), stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            env=environment,
        )  # fmt: skip
        try:
            outcome = "done" if process.wait(limit) == 0 else "failed"
        except subprocess.TimeoutExpired:
            outcome = "stopped"
        finally:
            with suppress(ProcessLookupError):  # whatever it began ends with it
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.seek(0)
        said = log.read()[-2000:].strip()
    found: dict[str, Any] = {}
    if into.is_file():
        found = json.loads(into.read_text(encoding="utf-8"))
    found |= {"outcome": outcome, "seconds": time.monotonic() - began}
    if outcome == "failed":
        found.setdefault("error", said)
    return found


def child(asked: argparse.Namespace) -> dict[str, Any]:
    """One part, here; its failure is written down and is this process' exit code."""
    from bench.gpu_found import Found, Setting

    module = import_module("bench.gpu_stages" if asked.part in STAGES else "bench.gpu_ops")
    part = getattr(module, asked.part)
    found = Found(asked.json)
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(asked.device, asked.shape, PLANNED * asked.seconds, Path(folder))
        try:
            part(setting, found)
        except Exception as error:
            traceback.print_exc()
            found.put(error=f"{type(error).__name__}: {error}"[:2000])
            raise SystemExit(1) from error
        finally:
            found.put(environment=setting.environment())
    return found.held


def with_environment_once(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report with the environment of its parts once, as the first that had one saw it."""
    seen = [part["environment"] for part in report["parts"].values() if "environment" in part]
    parts = {
        name: {key: value for key, value in part.items() if key != "environment"}
        for name, part in report["parts"].items()
    }
    return {**report, "environment": seen[0] if seen else {}, "parts": parts}


def table(report: Mapping[str, Any]) -> str:
    """Markdown: hardware and versions, a row for every figure of every part."""
    facts = report["environment"]
    known = {**facts.get("hardware", {}), **facts.get("versions", {})}
    lines = [
        f"Shapes: {report['shape']}. " + ", ".join(f"{k} {v}" for k, v in known.items()),
        "",
        "| part | figure | value |",
        "|---|---|---:|",
    ]
    for name, part in report["parts"].items():
        lines.append(f"| {name} | outcome | {part['outcome']}, {part['seconds']:.0f} s |")
        if "error" in part:
            lines.append(f"| {name} | error | {cell(part['error'].splitlines()[-1:])} |")
        for kind in ("figures", "compared"):
            lines += [f"| {name} | {k} | {cell(v)} |" for k, v in part.get(kind, {}).items()]
        lines += [f"| {name} | cut | {cut} |" for cut in part.get("cut", [])]
    return "\n".join(lines)


def cell(value: Any) -> str:
    """A figure as the table has it: four significant digits; what is not known as ``-``."""
    if isinstance(value, list):
        return " ".join(map(str, value)).replace("|", "/")
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "-" if value is None else str(value).replace("|", "/")


if __name__ == "__main__":
    main()
