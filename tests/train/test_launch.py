"""The launcher with stand-in workers: memory, messages, command lines."""

from __future__ import annotations

import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from coincide.schema import UserError
from train.job import EXIT_OUT_OF_MEMORY, TrainingJob
from train.launch import command, launch
from train.outcome import DeadRank, OutOfMemory, dead_rank
from train.recipe import Recipe
from train.stage import with_smaller_batch


def job(folder: Path, **changes: object) -> TrainingJob:
    recipe = Recipe(global_batch=32, micro_batch=16)
    made = TrainingJob(
        model="model",
        base="target/model-0",
        template="tiny",
        max_length=64,
        annotations="subset.json",
        image_root="images",
        blank_rows=(),
        seed=0,
        world_size=1,
        micro_batch=16,
        accumulation=2,
        output=str(folder),
        resume_from=None,
        recipe=recipe,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def run(folder: Path, script: str, **changes: object) -> None:
    made = job(folder, **changes)
    made.write(folder / "recipe.json")
    (folder / "stand_in.py").write_text(script)
    launch(made, folder / "recipe.json", steps=3, worker=[str(folder / "stand_in.py")])


SECRET = "Qz7" + "kW9x" * 5
FITS_FOUR = f"""
import sys, json
from pathlib import Path
from train.job import TrainingJob
from coincide.system.files import write_json
job = TrainingJob.read(Path(sys.argv[1]))
code = 0 if job.micro_batch <= 4 else {EXIT_OUT_OF_MEMORY}
said = dict(rank=0, exit_code=code, message="CUDA out of memory", host="here", at=0)
write_json(job.rank_status(0), said)
sys.exit(code)
"""


def test_out_of_memory_halves_the_micro_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = job(tmp_path)
    tried = []
    while True:
        tried.append((made.micro_batch, made.accumulation))
        try:
            run(tmp_path, FITS_FOUR, micro_batch=made.micro_batch)
            break
        except OutOfMemory as error:
            made = with_smaller_batch(made, error)
    assert tried == [(16, 2), (8, 4), (4, 8)]
    assert "going on with 8 and 4 accumulation step(s), the global batch stays 32" in (
        capsys.readouterr().out
    )


def test_out_of_memory_at_one_says_what_else_helps(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"micro_batch=1: full\n.*gradient_checkpointing=true"):
        with_smaller_batch(job(tmp_path, micro_batch=1), OutOfMemory("full"))


def test_a_rank_that_says_nothing(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from train.job import TrainingJob\n"
        "log = TrainingJob.read(Path(sys.argv[1])).rank_log(0)\n"
        f"log.write_text('one line, token={SECRET}\\nthe last words')\n"
        f"os.write(1, b'https://me:{SECRET}@host/')\n"
        "os.kill(os.getpid(), 9)"
    )
    with pytest.raises(UserError, match=r"(?s)rank 0 of 1 .* -9, SIGKILL.*the last words") as told:
        run(tmp_path, script)
    assert SECRET not in str(told.value)
    logs = {path.name: path.read_text() for path in (tmp_path / "logs").iterdir()}
    assert logs == {"rank0.log": "one line, token=[removed]\nthe last words",
                    "launcher.log": "https://host/"}  # fmt: skip


def test_a_worker_that_cannot_start(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)could not be started.*No module named 'nowhere'"):
        run(tmp_path, "import nowhere")


def test_command_lines(tmp_path: Path) -> None:
    path, worker = tmp_path / "recipe.json", ("-m", "train.worker")
    assert command(job(tmp_path), path, worker) == [sys.executable, *worker, str(path)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    two = command(job(tmp_path, world_size=2), path, worker)
    assert two == [*torchrun, "--nproc-per-node=2", *worker, str(path)]


@pytest.mark.parametrize(
    ("failures", "spoke", "found"),
    [
        ({0: (1, 7), 1: (-9, 7)}, {0}, (1, -9)),  # noticed in one second, and 0 fell over 1
        ({0: (-9, 7), 1: (1, 7)}, {1}, (0, -9)),
        ({0: (1, 7), 1: (-9, 37)}, {0}, None),  # 1 did not end on request and was killed for it
        ({0: (1, 7), 1: (-15, 7)}, {0}, None),
        ({0: (1, 7), 1: (1, 7)}, {0, 1}, None),
    ],
)
def test_the_silent_rank_of_the_first_second_is_the_cause(
    tmp_path: Path,
    failures: dict[int, tuple[int, int]],
    spoke: set[int],
    found: tuple[int, int] | None,
) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    listed = {r: ProcessFailure(r, 1, code, "<N/A>") for r, (code, _) in failures.items()}
    for rank, (_, at) in failures.items():
        listed[rank].timestamp = at
    log = tmp_path / "launcher.log"
    log.write_text(f"before\n{ChildFailedError('train.worker', listed)}", encoding="utf-8")
    assert dead_rank(log, spoke) == (found and DeadRank(*found, socket.gethostname()))
