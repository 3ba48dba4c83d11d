"""The evaluation worker within this process: for tests of what is around it, which a process of its
own would only make wait for its imports."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch as replaced

import pytest

from coincide.errors import PartlyFailed
from eval import before, stage, worker
from eval.request import EvaluationRequest
from tests.eval.hub import offline
from tests.eval.scripted import Answerer

Reply = Callable[[str, dict[str, Any], int], str]


def worker_inside(patch: pytest.MonkeyPatch, reply: Reply | None = None) -> list[str]:
    """Let stages of this process follow a worker in it, whose model answers by ``reply`` (None: the
    real model). The list tells the benchmarks of each model that is made from then on.
    """
    made: list[str] = []

    def model(request: EvaluationRequest, device: str, answered: Callable[[int], None]) -> Any:
        made.append(" ".join(job.name for job in request.jobs))
        if reply is None:
            return worker.load_llava(request, device, answered)
        return Answerer(reply, device, answered)

    def follow(
        run: Path, names: Sequence[str], *, ranks: int = 1, folder: Path | None = None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        sent = carried_out(run, folder, model)
        failures = {m["benchmark"]: m["why"] for m in sent if m["event"] == "failed"}
        yield from ((m.pop("benchmark"), m) for m in sent if m.pop("event") == "done")
        if failures:
            raise PartlyFailed("\n".join(failures.values()), failures)

    patch.setattr(stage, "follow", follow)
    patch.setattr(before, "follow", follow)
    return made


def carried_out(run: Path, folder: Path | None, model: worker.MakeModel) -> list[dict[str, Any]]:
    """The messages of a worker that carries out ``run/request.json`` in ``folder``."""
    sent: list[dict[str, Any]] = []
    with (
        replaced.dict(os.environ),
        offline(run / "cache"),
        pytest.MonkeyPatch.context() as here,
    ):
        here.chdir(folder or Path.cwd())
        request = EvaluationRequest.read(run / "request.json")
        worker._evaluate_all(
            request, run, lambda event, **more: sent.append({"event": event, **more}), model
        )
    return sent
