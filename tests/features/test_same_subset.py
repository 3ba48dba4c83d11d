"""Features -> clusters -> subset of COINCIDE on the demo: the same bytes, however it was computed.

Each case sets anew what only changes the speed, and selects with and without a projection from one
pass of the demo's reference model over 240 rows.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from coincide.features.engine import work
from coincide.pipeline import execute, plan
from coincide.stages import stages_of
from run import compose_all

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

SMALL = ("data.n=240", "data.clusters=8", "health.largest_cluster=0.5")
GOALS = ("features", "select")
ONE, TWELVE = "features.shard_rows=240", "features.shard_rows=20"
PREPARED = ("data", "model")


def select(folder: Path, *words: str) -> dict[str, bytes]:
    """Every file of the two subsets, made in ``folder`` from what is not there yet."""
    words = (*SMALL, f"paths.store={folder}", "method.projection=null,120", *words)
    found: dict[str, bytes] = {}
    for job in compose_all(["-m", *words]):
        run = job.experiment
        execute(plan(stages_of(run, GOALS), run.store, GOALS), run.store)
        for path in sorted(run.store.artifact(run.subset).path.rglob("*")):
            if path.is_file() and path.name != "manifest.json":
                found[f"{run.subset.folder}/{path.name}"] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which everything was made once, in one process, in one shard."""
    folder = tmp_path_factory.mktemp("prepared")
    select(folder, ONE)
    return folder


@pytest.fixture(scope="module")
def expected(prepared: Path) -> dict[str, bytes]:
    found = select(prepared, ONE)
    rows = [value for name, value in found.items() if name.endswith("rows.npy")]
    assert len(rows) == 2 and rows[0] != rows[1], "projected features select other rows"
    return found


@pytest.fixture
def store(prepared: Path, tmp_path: Path) -> Path:
    """Data and model, and no features yet."""
    folder = tmp_path / "store"
    folder.mkdir()
    for kind in PREPARED:
        (folder / kind).symlink_to(prepared / kind)
    return folder


def shards(store: Path) -> list[int]:
    """Files of values in each of the two features."""
    return [len(list(f.glob("values-*.npy"))) for f in sorted((store / "features").iterdir())]


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ((ONE, "features.batch_tokens=1"), 1),  # every row alone
        ((TWELVE, "features.batch_tokens=500", "features.batch_size=7"), 12),
        ((TWELVE, "features.processes=3", "features.decode_workers=1"), 12),
    ],
)
def test_token_budgets_shards_and_processes(
    store: Path, expected: dict[str, bytes], words: tuple[str, ...], count: int
) -> None:
    assert select(store, *words) == expected
    assert shards(store) == [count, count]


def _dies_at(shard: int, folder: Path, words: tuple[str, ...]) -> None:
    """Select in this process, which is killed once it has written ``shard``."""
    torch.set_num_threads(1)
    write = work.write_shard

    def last(where: Path, index: int, values: np.ndarray, valid: np.ndarray) -> None:
        write(where, index, values, valid)
        if index == shard:
            os.kill(os.getpid(), signal.SIGKILL)

    work.write_shard = last
    select(folder, *words)


def test_killed_and_resumed(
    store: Path, expected: dict[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    """Killed between the two features of a unit; resumed by two processes in other batches."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_dies_at, args=(5, store, (TWELVE,)))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    partial = [len(list(f.glob("values-*"))) for f in (store / "features").glob(".by-picture-*")]
    assert sorted(partial) == [5, 6]
    words = (ONE, "features.processes=2", "features.batch_tokens=333")
    assert select(store, *words) == expected
    assert shards(store) == [12, 12], "as it was begun"
    assert re.search(r"resumed with \d+ of 240 rows done", capfd.readouterr().out)
