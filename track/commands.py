"""``python -m coincide.dashboard sync | create``: write the ledger to wandb; make its dashboard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from coincide.experiment import Experiment
from coincide.ledger.evidence import ArtifactShelf
from coincide.ledger.files import read_ledger
from coincide.schema import UserError
from coincide.terminal.inert import console
from track.dashboard import create
from track.replay import ledger_runs, matches
from track.settings import Logger
from track.sync import NotWritten, marks, sync


def sync_ledger(experiments: Sequence[Experiment], logger: Logger, ledger: Path) -> int:
    """Write the results that the words of the command line select; all of them without words.

    Raises UserError if there are none, or wandb takes them not to the end.
    """
    _check(logger)
    everything = read_ledger(ledger)
    chosen = [r for r in everything if any(matches(r, e.words, e.config) for e in experiments)]
    if not everything:
        raise UserError(f"the ledger {ledger} is empty; paths.ledger names another one.")
    if not chosen:
        raise UserError(
            f"none of the {len(everything)} results of the ledger {ledger} has what these words "
            "say. Without words, all of them are taken."
        )
    shelf = ArtifactShelf(experiments[0].store.root, reader="track")
    runs = ledger_runs(chosen, everything, shelf, group=logger.group or "")
    try:
        done = sync(runs, logger)
    except NotWritten as error:
        raise UserError(
            f"wandb was not written to the end: {error}. What was written stays; the same command "
            "goes on from there. See `wandb login --verify` and logger.timeout."
        ) from error
    lacking = sum(not run.sources for run in runs)
    note = f"; {lacking} without curves and artifacts, which this store lacks" if lacking else ""
    if done.damaged:
        note += f"; {done.damaged} not whole, as artifacts of the store are damaged (named above)"
    console().print(
        f"{len(chosen)} results: {done.written} runs written, {done.known} were there already"
        f"{note}. Marks: {marks(logger)}",
        highlight=False,
    )
    return 1 if done.damaged else 0


def create_dashboard(experiments: Sequence[Experiment], logger: Logger, ledger: Path) -> int:
    """Create the comparing dashboard of the project, or update an existing one."""
    _check(logger)
    console().print(create(logger, ledger), highlight=False, soft_wrap=True)
    return 0


def _check(logger: Logger) -> None:
    if logger.mode == "off":
        raise UserError("logger=none writes nothing; give logger=wandb or logger=wandb_offline.")


DASHBOARD: Mapping[str, Callable[[Sequence[Experiment], Logger, Path], int]] = {
    "dashboard_sync": sync_ledger,
    "dashboard_create": create_dashboard,
}
