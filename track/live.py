"""``logger=wandb | wandb_offline``: after each stage of a run, write its results so far.

Nothing here raises, since a failure of wandb must not affect a run. A training curve is written
when the training is done, from the log in its artifact, not while it runs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coincide.experiment import Experiment
from coincide.ledger.evidence import ArtifactShelf
from coincide.ledger.files import read_ledger
from coincide.stages import result_of
from track.records import JOB_TYPES, WandbRun, runs_of
from track.replay import ledger_runs
from track.settings import Logger
from track.sync import NotWritten, sync

PAUSE = 600.0
"""Seconds without further tries after a failure, so that a sweep does not wait at every stage."""


@dataclass
class Live:
    """The logger of one command: where to write, and until when to pause."""

    logger: Logger
    ledger: Path
    quiet_until: float = 0.0

    def after(
        self, stage: str, experiment: Experiment, failures: Mapping[str, str] | None = None
    ) -> None:
        """Write what ``experiment`` has made up to ``stage``, including what failed to be written
        before.

        ``failures``: benchmarks that have no score -> why.
        """
        if self.logger.mode != "off" and stage in JOB_TYPES and time.monotonic() > self.quiet_until:
            try:
                sync(self._runs(stage, experiment, failures or {}), self.logger)
            except Exception as error:  # whatever it is, the run goes on
                self._warn(error)

    def finish(self, experiments: Sequence[Experiment]) -> None:
        """At the end of a sweep, add Rel.

        (%) to runs that were evaluated before the full-data run.
        """
        if experiments and self.logger.mode != "off" and time.monotonic() > self.quiet_until:
            try:
                ledger = read_ledger(self.ledger)
                groups = {e.config.get("group") for e in experiments}
                results = [r for r in ledger if r.config.get("group") in groups]
                shelf = ArtifactShelf(experiments[0].store.root, reader="track")
                sync(ledger_runs(results, ledger, shelf, group=self._group), self.logger)
            except Exception as error:  # whatever it is, the sweep has succeeded
                self._warn(error)

    @property
    def _group(self) -> str:
        return self.logger.group or ""

    def _runs(
        self, stage: str, experiment: Experiment, failures: Mapping[str, str]
    ) -> list[WandbRun]:
        shelf = ArtifactShelf(experiment.store.root, reader="track")
        result = result_of(experiment, failures, upto=stage)
        if stage != "evaluate":
            return runs_of(result, shelf, group=self._group)
        return ledger_runs([result], [*read_ledger(self.ledger), result], shelf, group=self._group)

    def _warn(self, error: Exception) -> None:
        self.quiet_until = time.monotonic() + PAUSE
        reason = str(error) if isinstance(error, NotWritten) else f"{type(error).__name__}: {error}"
        print(
            f"warning: wandb was not written ({reason}). The run goes on; afterwards "
            "`python -m coincide.dashboard sync` makes it complete.",
            file=sys.stderr,
            flush=True,
        )
