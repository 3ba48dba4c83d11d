"""The launcher of one node in a job over several: ``python -m train.node recipe.json``.

Under SLURM the run starts it on every node. Elsewhere start it on every node but the first, with
torchrun's ``MASTER_ADDR``, ``MASTER_PORT`` and ``NODE_RANK``, before or after ``run.py`` on node 0.
It waits for node 0, and starts its ranks again when node 0 tries a smaller micro-batch.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from coincide.schema import UserError
from coincide.system.files import write_json
from coincide.system.processes import preexec_die_with_parent
from coincide.terminal.inert import guard_terminal
from train.job import EXIT_ERROR, EXIT_OUT_OF_MEMORY, EXIT_STOPPED, TrainingJob
from train.launch import kill_group, rank_environment, stop_signals
from train.nodes import GRACE_SECONDS, NodeWatch, Rendezvous, launch_of, meeting, node_command
from train.outcome import dead_rank, rank_statuses

POLL_SECONDS = 0.2
REPLACED = -1
"""Takes the place of an exit code: node 0 has started another launch."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve one launch (``--launch``), or wait for node 0 and serve its launches until it ends."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", type=Path, help="recipe.json in the adapter's build folder")
    parser.add_argument("--launch", help="serve this launch alone")
    options = parser.parse_args(arguments)
    if options.launch:
        job = TrainingJob.read(options.recipe)
        here = meeting(job.recipe.nodes)
        if here.node == 0:
            write_json(job.launch_file, {"launch": options.launch})
        return serve(job, options.recipe, here, options.launch)
    return serve_launches(options.recipe)


def serve_launches(recipe: Path) -> int:
    """Serve node 0's launches until one ends in anything but lack of memory.

    Returns the exit code.
    """
    served: str | None = None
    code = REPLACED
    while code in (REPLACED, EXIT_OUT_OF_MEMORY):
        found = _await_launch(recipe, served)
        if found is None:
            return EXIT_ERROR if code == REPLACED else code
        job, served = found
        code = serve(job, recipe, meeting(job.recipe.nodes), served)
    return code


def serve(job: TrainingJob, recipe: Path, here: Rendezvous, launch: str) -> int:
    """Run this node's ranks until they end or another node fails; returns the exit code."""
    log = job.logs / f"launcher{here.node}.log"
    watch = NodeWatch(job, here.node, launch)
    with log.open("wb") as output, stop_signals(job):
        process = subprocess.Popen(
            node_command(job, recipe, here),
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **rank_environment(job)},
            start_new_session=True,
            preexec_fn=preexec_die_with_parent(),
        )
        try:
            code, lost = _watched(process, watch)
        finally:
            kill_group(process)
    if watch.replaced():
        return REPLACED
    code = _meaning(job, code)
    _write_status(job, here.node, code, lost, log)
    if here.node == 0:
        _await_others(watch)
    return code


def _watched(process: subprocess.Popen[bytes], watch: NodeWatch) -> tuple[int, str | None]:
    """Wait for the ranks of this node.

    Returns their exit code and, in words, which node was lost.
    """
    failed_at: float | None = None
    while (code := process.poll()) is None:
        time.sleep(POLL_SECONDS)
        watch.beat()
        if (lost := watch.lost()) or watch.replaced():
            return EXIT_ERROR, lost
        if failed_at is None and watch.failed():
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() - failed_at > GRACE_SECONDS:
            return EXIT_ERROR, None
    return code, None


def _meaning(job: TrainingJob, code: int) -> int:
    """The exit code of the node: how its ranks ended, as far as they reported it."""
    codes = [status["exit_code"] for status in rank_statuses(job)]
    if EXIT_OUT_OF_MEMORY in codes:
        return EXIT_OUT_OF_MEMORY
    return EXIT_STOPPED if codes and all(c == EXIT_STOPPED for c in codes) else code


def _write_status(job: TrainingJob, node: int, code: int, lost: str | None, log: Path) -> None:
    dead = dead_rank(log, {status["rank"] for status in rank_statuses(job)}) if code else None
    status = {
        "node": node,
        "host": socket.gethostname(),
        "exit_code": code,
        "dead": None if dead is None else asdict(dead),
        "lost": lost,
        "at": time.time(),
    }
    write_json(job.node_status(node), status)


def _await_others(watch: NodeWatch) -> None:
    """Wait until every other node has ended or is lost, since the next launch empties the logs."""
    while watch.others() and not watch.lost():
        watch.beat()
        time.sleep(POLL_SECONDS)


def _await_launch(recipe: Path, served: str | None) -> tuple[TrainingJob, str] | None:
    """Job and launch that node 0 asks for next; None if it asks for none within the timeout."""
    began = time.monotonic()
    limit = 600.0
    while time.monotonic() - began < limit:
        if recipe.is_file():
            job = TrainingJob.read(recipe)
            limit = job.recipe.timeout
            launch = launch_of(job)
            if launch is not None and launch != served:
                return TrainingJob.read(recipe), launch  # written before the launch was asked for
        elif served is not None:
            return None
        time.sleep(POLL_SECONDS)
    print(f"no launch by node 0 within {limit:.0f} s in {recipe.parent}", file=sys.stderr)
    return None


if __name__ == "__main__":
    guard_terminal()
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
