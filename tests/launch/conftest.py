"""Runs of the shrunk demo, composed and not run, in a folder of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import run as program
from coincide.store import Step
from launch.jobs import Job, without_duplicates
from tests.command.conftest import SMALL

Compose = Callable[..., list[Job]]


@pytest.fixture
def compose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compose:
    monkeypatch.chdir(tmp_path)
    return lambda *words: without_duplicates(program.compose_all([*SMALL, *words]))


def pretend(job: Job, *steps: Step) -> None:
    """Make the store believe that these artifacts are there."""
    for step in steps:
        path = job.experiment.store.path(step)
        path.mkdir(parents=True)
        (path / "manifest.json").write_text(json.dumps({"key": step.key}))
        if step.kind == "scan":
            (path / "rows.json").write_text('{"refused": {}, "unlearnt": {}}')
