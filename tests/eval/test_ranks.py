"""Several processes share the documents and give the bytes of one; when one dies, all end."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from coincide.schema import UserError
from coincide.store import Artifact, Step, Store
from eval import process
from eval.process import command, follow
from eval.request import EvaluationRequest
from eval.stage import evaluate
from tests.eval import hub
from tests.eval.bench import steps as demo_steps
from tests.eval.inside import carried_out, worker_inside
from tests.eval.real import benchmark, job, steps, suite
from tests.eval.scripted import by_script, make_model

NAMES = "pope mme mmmu mmbench_en chartqa seed ai2d"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(process, "WORKER", "tests.eval.scripted")


def drop(store: Store, made: list[Step]) -> None:
    for step in made:
        shutil.rmtree(store.path(step))


def contents(artifacts: list[Artifact]) -> list[tuple[bytes, bytes]]:
    return [
        ((a.path / "result.json").read_bytes(), (a.path / "samples.jsonl").read_bytes())
        for a in artifacts
    ]


def answered_by(ranks: int, mirror: Path, folder: Path) -> dict[str, tuple[bytes, bytes]]:
    """The files of all of NAMES, from one start of so many processes."""
    jobs = {name: job(benchmark(name), folder / name) for name in NAMES.split()}
    cache = str(folder / "cache")
    EvaluationRequest(
        "", None, "tiny", "float32", "cpu", 1, 1, cache, tuple(jobs.values())
    ).write(folder / "request.json")  # fmt: skip
    if ranks == 1:
        sent = carried_out(folder, mirror, make_model)
        done = {m["benchmark"]: m for m in sent if m["event"] == "done"}
    else:
        done = dict(follow(folder, list(jobs), ranks=ranks, folder=mirror))
    assert {measured["world_size"] for measured in done.values()} == {ranks}
    return {
        name: ((folder / name / "result.json").read_bytes(),
               (folder / name / "samples.jsonl").read_bytes())
        for name in done
    }  # fmt: skip


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F1, pairs, rotations, guesses, filters and parts of the documents among them."""
    mirror = hub.mirror(tmp_path / "mirror")
    monkeypatch.setenv("SCRIPT", "unreadable")
    alone = answered_by(1, mirror, tmp_path / "alone")
    assert answered_by(2, mirror, tmp_path / "together") == alone
    assert list(alone) == NAMES.split()


@pytest.mark.slow
def test_a_real_model_in_two_processes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "WORKER", "eval.worker")
    names = "choice presence"
    made = demo_steps(store, names, device="cpu", processes=1)
    with pytest.MonkeyPatch.context() as patch:
        worker_inside(patch)
        alone = contents(evaluate(store, made))
    drop(store, made)
    together = evaluate(store, demo_steps(store, names, device="cpu", processes=2))
    assert contents(together) == alone


@pytest.mark.slow
def test_a_rank_that_fails_ends_the_others_and_is_told(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failing benchmark is named, the next one has its turn and is kept when run again."""
    mirror = hub.mirror(tmp_path / "mirror")
    monkeypatch.setenv("SCRIPT", "fail gqa on 1")
    first, second = steps(store, suite("paper", mirror, "gqa pope", processes=2))
    with pytest.raises(UserError, match=r"gqa: RuntimeError: rank 1 was told to fail"):
        evaluate(store, [first, second])
    kept = store.find(second)
    assert store.find(first) is None and kept is not None
    worker_inside(monkeypatch, by_script("right"))
    assert evaluate(store, [first, second])[1] == kept


def test_one_process_needs_no_launcher() -> None:
    assert len(command(1)) == 1
    assert command(4)[1:] == [
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4",
    ]  # fmt: skip
