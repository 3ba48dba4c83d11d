"""Several processes at one pass: the same bytes, whoever is slow, killed or late."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from coincide.config import FeaturePass
from coincide.features.engine import units, workers
from coincide.features.engine.contract import Computer, SignalPass, WorkerSite
from coincide.features.engine.workers import WorkerFailed
from coincide.features.extract import extract, signal_step
from coincide.features.passes.clip import ClipPass
from coincide.features.passes.reference import ReferencePass
from coincide.features.signals.activations import Activations
from coincide.features.signals.bridging import Bridging
from coincide.features.signals.clip_image import ClipImage
from coincide.features.signals.clip_text import ClipText
from coincide.features.signals.grand import GradientNorm
from coincide.features.signals.hidden_mean import HiddenMean
from coincide.features.signals.hidden_weighted import HiddenWeighted
from coincide.features.signals.neurons import Neurons
from coincide.features.signals.token_scores import TokenScores
from coincide.features.signals.token_scores_blind import TokenScoresBlind
from coincide.features.signals.token_scores_masked import TokenScoresMasked
from coincide.features.signals.token_scores_unasked import TokenScoresUnasked
from coincide.features.signals.visual_attended import VisualAttended
from coincide.features.signals.visual_mean import VisualMean
from coincide.schema import Signal, UserError
from coincide.store import Artifact, Store
from coincide.system import processes
from tests.features.conftest import Model, Source
from tests.features.test_clip import RandomClip

pytestmark = pytest.mark.usefixtures("one_thread")

SIGNALS = (
    Activations((0, 1)), HiddenMean(), HiddenWeighted(), TokenScores(), TokenScoresBlind(),
    TokenScoresMasked(), TokenScoresUnasked(), GradientNorm(), VisualMean(), VisualAttended(),
    Bridging((0, 1)), Neurons((0, 1), 8),
)  # fmt: skip
"""One pass of every variant of a row."""


@dataclass(frozen=True)
class Slow(ReferencePass):
    """A pass whose shards take a while, and note who did them in ``log``."""

    log: Path = Path()
    seconds: float = 0.0
    dies_at: int = -1
    """First row of the shard at which the worker that takes it first is killed."""
    raises: type[Exception] | None = None

    @contextmanager
    def computer(self, signals: Sequence[Signal], site: WorkerSite) -> Iterator[Computer]:
        made: AbstractContextManager[Computer] = super().computer(signals, site)
        with made as compute:

            def slowly(examples: Any, told: Any) -> Any:
                first = examples[0].row
                with (self.log / "shards").open("a") as handle:
                    handle.write(f"{first} {os.getpid()}\n")
                time.sleep(self.seconds)
                if first == self.dies_at:
                    self._fail()
                return compute(examples, told)

            yield slowly

    def _fail(self) -> None:
        if self.raises:
            raise self.raises("what went wrong")
        if not (self.log / "died").exists():
            (self.log / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def who(self) -> dict[int, list[str]]:
        """First row of a shard -> the processes that began it."""
        found: dict[int, list[str]] = {}
        if not (self.log / "shards").exists():
            return found
        for line in (self.log / "shards").read_text().splitlines():
            first, pid = line.split()
            found.setdefault(int(first), []).append(pid)
        return found


def through(
    store: Store, over: SignalPass, signals: tuple[Signal, ...] = SIGNALS
) -> list[Artifact]:
    data, base = over.source.step(), over.model.step()
    store.ensure(data)
    store.ensure(base)
    return extract(store, {s: signal_step(s, over, data=data, base=base) for s in signals}, over)


def files(artifact: Artifact) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in artifact.path.iterdir() if p.suffix == ".npy"}


@pytest.fixture(scope="module")
def alone(
    tmp_path_factory: pytest.TempPathFactory, source: Source, model: Model
) -> list[dict[str, bytes]]:
    """Every shard as one process makes it."""
    options = FeaturePass(shard_rows=4, share_prefixes=False)
    over = ReferencePass(model, source, "float64", options)
    return [files(a) for a in through(Store(tmp_path_factory.mktemp("alone")), over)]


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "decoders"), [(1, 2), (3, 1)])  # two: the next test
def test_the_same_bytes_from_any_number_of_processes(
    tmp_path: Path, source: Source, model: Model, alone: list[dict[str, bytes]],
    processes: int, decoders: int,
) -> None:  # fmt: skip
    options = FeaturePass(
        shard_rows=4, processes=processes, decode_workers=decoders, batch_size=5 - processes
    )
    made = through(Store(tmp_path), ReferencePass(model, source, "float64", options))
    assert [files(a) for a in made] == alone
    for artifact in made:
        assert sorted(artifact.manifest["files"]) == sorted([*files(artifact), "layout.json"])
    assert not list((tmp_path / "features").glob(".*"))


@pytest.mark.slow
@pytest.mark.fresh
def test_a_killed_worker_costs_its_unit_and_no_more(
    tmp_path: Path, source: Source, model: Model, alone: list[dict[str, bytes]],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    options = FeaturePass(shard_rows=4, processes=2, share_prefixes=False)
    over = Slow(model, source, "float64", options, log=tmp_path, seconds=0.2, dies_at=8)
    assert [files(a) for a in through(Store(tmp_path / "store"), over)] == alone
    told = capsys.readouterr().out
    assert "was killed by SIGKILL at unit 2, which another takes" in told
    begun = over.who()
    assert {first: len(pids) for first, pids in begun.items()} == {
        0: 1, 4: 1, 8: 2, 12: 1, 16: 1, 20: 1,
    }  # fmt: skip
    assert len({pid for pids in begun.values() for pid in pids}) == 2


@pytest.mark.slow
def test_a_worker_that_fails_shows_its_traceback_and_unit(
    tmp_path: Path, source: Source, model: Model, alone: list[dict[str, bytes]],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    options = FeaturePass(shard_rows=4, processes=2, share_prefixes=False)
    store = Store(tmp_path / "store")
    over = Slow(model, source, "float64", options, log=tmp_path, dies_at=8, raises=ValueError)
    with pytest.raises(WorkerFailed, match=r"(?s)at unit 2:\nTraceback.*ValueError: what went"):
        through(store, over)
    here = FeaturePass(shard_rows=24)
    assert [
        files(a) for a in through(store, ReferencePass(model, source, "float64", here))
    ] == alone
    assert re.search(r"resumed with \d+ of 24 rows done", capsys.readouterr().out)


def test_workers_end_with_a_parent_that_is_killed_while_they_import() -> None:
    program = (
        "import time, types; from coincide.features.engine import workers\n"
        "source = types.SimpleNamespace(open=time.sleep)\n"  # they would live for a minute
        "work = types.SimpleNamespace(over=types.SimpleNamespace(source=source), data=60)\n"
        "pair = [workers._start(work, i, 'cpu', 1, 2) for i in range(2)]\n"
        "print(*(each.process.pid for each in pair), flush=True)\n"
        "time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], cwd=workers.PROJECT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2 and all(map(processes._runs, pids))
    parent.kill()
    parent.wait()
    _until(lambda: not any(map(processes._runs, pids)), 20)


def test_what_is_wrong_with_the_input_is_said_as_that() -> None:
    worker: Any = SimpleNamespace(number=1, device="cuda:1")
    tally: Any = SimpleNamespace(lost=lambda number: 7)
    with pytest.raises(UserError, match=r"row 5: no image \(worker 1 on cuda:1, at unit 7\)"):
        workers._hear(worker, ("user error", "row 5: no image"), tally)


def _lead(root: Path, over: SignalPass, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    through(Store(root), over)


@contextmanager
def leader(store: Store, over: Slow, **environment: str) -> Iterator[Any]:
    """Another process at the same pass, which has begun."""
    for step in (over.source.step(), over.model.step()):
        store.ensure(step)
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_lead, args=(store.root, over, environment))
    process.start()
    _until(over.who)
    yield process
    process.join(60)


@pytest.mark.slow
def test_other_processes_join_in_instead_of_waiting(
    tmp_path: Path, source: Source, model: Model, alone: list[dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Ranks of torchrun here; commands of a SLURM array do the same."""
    over = Slow(model, source, "float64", FeaturePass(shard_rows=4), log=tmp_path, seconds=0.7)
    store = Store(tmp_path / "store")
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    with leader(store, over, **world, RANK="1", LOCAL_RANK="1"):
        for name, value in {**world, "RANK": "0", "LOCAL_RANK": "0"}.items():
            monkeypatch.setenv(name, value)
        assert [files(a) for a in through(store, over)] == alone
    begun = over.who()
    shards = units.shards_of(24, 4)
    order = units.by_picture(source.open(Path()).examples, shards, 4)
    assert order is not None
    assert sorted(begun) == sorted(rows[0] for rows in units.Units(shards, order).rows)
    assert all(len(pids) == 1 for pids in begun.values())
    assert len({pid for pids in begun.values() for pid in pids}) == 2


@pytest.mark.slow
def test_a_killed_leader_is_replaced_by_its_helper(
    tmp_path: Path, source: Source, model: Model, alone: list[dict[str, bytes]]
) -> None:
    over = Slow(model, source, "float64", FeaturePass(shard_rows=4), log=tmp_path, seconds=0.7)
    store = Store(tmp_path / "store")
    with leader(store, over) as other:

        def kill() -> None:
            _until(lambda: len({pid for pids in over.who().values() for pid in pids}) == 2)
            os.kill(other.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        assert [files(a) for a in through(store, over)] == alone
        killer.join()
    assert other.exitcode == -signal.SIGKILL


def _until(true: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "never happened"
        time.sleep(0.02)


@pytest.mark.slow
def test_clip_too(tmp_path: Path, source: Source) -> None:
    signals = (ClipImage(), ClipText("answer"))
    several = FeaturePass(shard_rows=4, processes=2, decode_workers=1)
    found = [
        [
            files(a)
            for a in through(Store(tmp_path / name), ClipPass(RandomClip(), source, o), signals)
        ]
        for name, o in (("one", FeaturePass(shard_rows=4)), ("several", several))
    ]
    assert found[0] == found[1]


@dataclass
class Memory:
    """A GPU's memory, as far as ``capture.run`` knows: so many rows and no more."""

    rows: int
    tried: list[int] = field(default_factory=list)


def test_out_of_memory_halves_the_batch_and_says_so(
    tmp_path: Path, source: Source, model: Model, alone: list[dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from coincide.features.forward import capture

    memory, real = Memory(2), capture.run

    def run(network: Any, batch: Any, *more: Any) -> Any:
        memory.tried.append(len(batch["input_ids"]))
        if memory.tried[-1] > memory.rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(network, batch, *more)

    monkeypatch.setattr(capture, "run", run)
    over = ReferencePass(model, source, "float64", FeaturePass(shard_rows=4))
    assert [files(a) for a in through(Store(tmp_path), over)] == alone
    assert len([n for n in memory.tried if n > 2]) == 1, "smaller once and for all"
    assert "is out of memory with 4 rows of" in capsys.readouterr().out
    memory.rows = 0
    with pytest.raises(UserError, match=r"row \d+ with \d+ tokens alone does not fit"):
        through(Store(tmp_path / "again"), over)


def test_a_wrong_number_of_processes_is_refused(
    tmp_path: Path, source: Source, model: Model
) -> None:
    for options in ({"processes": 0}, {"processes": "many"}, {"decode_workers": -1}):
        over = ReferencePass(model, source, "float64", FeaturePass(**options))
        with pytest.raises(UserError, match="expected auto or an int"):
            through(Store(tmp_path), over)


def test_an_image_goes_through_the_tower_once_a_shard(
    tmp_path: Path, source: Source, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of row 7, which has two that other rows have as well."""
    from coincide.features.forward import rows as reference

    seen: list[int] = []
    real = reference.load_model

    def load(*args: Any, **options: Any) -> Any:
        network = real(*args, **options)
        network.model.vision_tower.register_forward_pre_hook(lambda m, x: seen.append(len(x[0])))
        return network

    monkeypatch.setattr(reference, "load_model", load)
    over = ReferencePass(model, source, "float64", FeaturePass(batch_size=2))
    through(Store(tmp_path), over)
    assert sum(seen) == 7 + 2, "two of them to see whether attention is causal"


@pytest.mark.slow
def test_the_bench_reads_what_the_plain_loop_reads(capsys: pytest.CaptureFixture[str]) -> None:
    from bench import features

    assert features.main(["--rows", "48", "--device", "cpu"]) > 0
    told = capsys.readouterr().out
    assert "examples/s, batch 8" in told
    assert re.search(r"time goes to decode \d+%, encode \d+%, forward \d+%, write \d+%", told)
    plain, ours = map(int, re.findall(r"(\d+)% of", told.split("padding")[1]))
    assert ours < plain
    difference = float(told.split("largest difference of a value:")[1])
    assert difference < 1e-3, "float16 beside float32"
