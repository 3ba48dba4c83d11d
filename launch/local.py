"""``launcher=local``: the runs one after the other, in this process."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from coincide.schema import UserError
from launch.again import reopen_unanswered
from launch.execute import Executor
from launch.jobs import Job


@dataclass(frozen=True)
class Local:
    """Runs jobs in this process; a failed one does not stop the others."""

    def launch(self, jobs: Sequence[Job], executor: Executor) -> int:
        """Run the jobs; 2 if one failed, with the commands that run the failed ones again."""
        failed = []
        for number, job in enumerate(jobs, 1):
            if len(jobs) > 1:
                print(f"\n=== run {number} of {len(jobs)}: {job.words}", flush=True)
            try:
                reopen_unanswered(job)
                executor.run(job)
            except UserError as error:
                print(f"\nerror: {error}", file=sys.stderr)
                failed.append(job)
            except Exception:
                if len(jobs) == 1:
                    raise
                traceback.print_exc()
                failed.append(job)
        if len(jobs) > 1:
            executor.finish([job for job in jobs if not job.cfg.dry_run])
        if failed and len(jobs) > 1:
            listed = "\n".join(f"  python run.py {job.words}" for job in failed)
            again = f"{len(failed)} of {len(jobs)} runs failed; to run them again:"
            print(f"\n{again}\n{listed}", file=sys.stderr)
        return 2 if failed else 0
