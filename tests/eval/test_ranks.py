"""Several processes share the documents and give the bytes of one; when one dies, all end."""

from __future__ import annotations

from pathlib import Path

import pytest

from coincide.schema import UserError
from coincide.store import Artifact, Step, Store
from eval import process
from eval.process import command
from eval.stage import evaluate
from tests.eval import hub
from tests.eval.bench import steps as demo_steps
from tests.eval.real import steps, suite

NAMES = "pope mme mmmu mmbench_en chartqa seed ai2d"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(process, "WORKER", "tests.eval.scripted")


def contents(artifacts: list[Artifact]) -> list[tuple[bytes, bytes]]:
    return [
        ((a.path / "result.json").read_bytes(), (a.path / "samples.jsonl").read_bytes())
        for a in artifacts
    ]


def drop(store: Store, made: list[Step]) -> None:
    import shutil

    for step in made:
        shutil.rmtree(store.path(step))


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F1, pairs, rotations, guesses, several filters and parts of the documents among them."""
    mirror = hub.mirror(tmp_path / "mirror")
    monkeypatch.setenv("SCRIPT", "unreadable")
    made = steps(store, suite("fast", mirror, NAMES, processes=1))
    alone = evaluate(store, made)
    whole = contents(alone)
    assert [a.facts["processes"] for a in alone] == [1] * len(made)
    drop(store, made)
    together = evaluate(store, steps(store, suite("fast", mirror, NAMES, processes=2)))
    assert contents(together) == whole
    assert [a.facts["processes"] for a in together] == [2] * len(made)


@pytest.mark.slow
def test_a_real_model_in_two_processes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "WORKER", "eval.worker")
    names = "choice presence"
    made = demo_steps(store, names, device="cpu", processes=1)
    alone = contents(evaluate(store, made))
    drop(store, made)
    together = evaluate(store, demo_steps(store, names, device="cpu", processes=2))
    assert contents(together) == alone


@pytest.mark.slow
def test_a_rank_that_fails_ends_the_others_and_is_told(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failing benchmark is named; the next one has its turn."""
    mirror = hub.mirror(tmp_path / "mirror")
    monkeypatch.setenv("SCRIPT", "fail gqa on 1")
    first, second = steps(store, suite("paper", mirror, "gqa pope", processes=2))
    with pytest.raises(UserError, match=r"gqa: RuntimeError: rank 1 was told to fail"):
        evaluate(store, [first, second])
    assert store.find(first) is None and store.find(second) is not None


def test_one_process_needs_no_launcher() -> None:
    assert len(command(1)) == 1
    assert command(4)[1:] == [
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4",
    ]  # fmt: skip
