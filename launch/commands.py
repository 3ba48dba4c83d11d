"""Commands of ``run.py`` other than a run: ``command=doctor | prefetch | prepare | verify``.

``python -m coincide.doctor data=llava`` and similar commands end here; they take the words of a
run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from coincide.experiment import Experiment

RequestedRuns = Sequence[tuple[Experiment, Sequence[str]]]
"""Experiments with the stages asked of each."""


def doctor(asked: RequestedRuns) -> int:
    """Print everything that the runs need, and what the first will cost; status 1 if something is
    missing.
    """
    from coincide.checks.estimate import costs
    from coincide.checks.flops import device_name
    from coincide.checks.needs import examine
    from launch.show import show_costs, title

    status = examine(asked)
    experiment, stages = asked[0]
    found = costs(experiment, stages, device_name())
    if len(asked) > 1 and any(cost.hours is not None for cost in found):
        print(f"\nThe first of {len(asked)} runs, {title(experiment)}:")
    show_costs(found)
    return status


def prefetch(asked: RequestedRuns) -> int:
    """Fetch what the runs need and can be fetched; status 1 if something is still missing."""
    from coincide.checks.fetch import fetch_all

    return fetch_all(asked)


def prepare(asked: RequestedRuns) -> int:
    """Download and unpack the dataset of the first run."""
    from coincide.data.prepare import prepare

    prepare(asked[0][0].source)
    return 0


def verify(asked: RequestedRuns) -> int:
    """Decode every image of the dataset of the first run, and report by source."""
    from coincide.data.verify import verify

    verify(asked[0][0].source)
    return 0


COMMANDS: dict[str, Callable[[RequestedRuns], int]] = {
    "doctor": doctor,
    "prefetch": prefetch,
    "prepare": prepare,
    "verify": verify,
}
