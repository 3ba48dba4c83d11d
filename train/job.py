"""The files between the train stage and its ranks: ``recipe.json``, logs, statuses and results."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coincide.system.files import write_atomic, write_json
from train.recipe import Recipe

EXIT_ERROR = 1
EXIT_STOPPED = 75
"""A rank stopped on request after writing a checkpoint (EX_TEMPFAIL)."""
EXIT_OUT_OF_MEMORY = 76
EXIT_DISK = 74
"""A rank could not write because the disk is full (EX_IOERR); it may not have been able to report
it."""
ADAPTER = "adapter"
"""Field of ``result.json``: size and hash of the adapter's files, for a later attempt that finds
them."""
LOG = "log"
"""Another field: the hash of ``log.jsonl``."""


@dataclass(frozen=True)
class TrainingJob:
    """Everything a rank needs to know.

    ``python -m train.worker recipe.json`` needs nothing else.
    """

    model: str
    """Folder of the base model."""
    base: str
    """Store folder of the base model's artifact; recorded in ``adapter_config.json``."""
    template: str
    max_length: int
    annotations: str
    """The subset's file in LLaVA json."""
    image_root: str
    blank_rows: tuple[int, ...]
    """Rows of the subset whose image is replaced by a blank one."""
    seed: int
    world_size: int
    micro_batch: int
    accumulation: int
    output: str
    """The build folder: ``adapter/``, ``log.jsonl``, ``checkpoints/``, ``logs/``."""
    resume_from: str | None
    """Checkpoint to resume from."""
    recipe: Recipe
    rows: str = ""
    """For ``order=rows``: the file of the rows' numbers in the dataset, int64 [n]."""
    keep: tuple[int, ...] = ()
    """Of a warm-up: optimizer steps after which adapter and moments are kept, ascending; it ends
    with the last. Empty: a finetuning to the end."""

    @property
    def log(self) -> Path:
        """One JSON record per optimizer step."""
        return Path(self.output) / "log.jsonl"

    @property
    def adapter(self) -> Path:
        """Folder of the finished PEFT adapter."""
        return Path(self.output) / "adapter"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints; removed when the adapter is finished."""
        return Path(self.output) / "checkpoints"

    def kept(self, step: int) -> Path:
        """Folder of the adapter and the moments kept after optimizer step ``step``."""
        return Path(self.output) / "model" / f"at-{self.keep.index(step):02d}"

    @property
    def logs(self) -> Path:
        """Folder for the ranks' output and status; removed when the adapter is finished."""
        return Path(self.output) / "logs"

    @property
    def stop_file(self) -> Path:
        """If it exists, the ranks write a checkpoint and stop."""
        return self.logs / "stop"

    @property
    def result(self) -> Path:
        """Facts that rank 0 reports at the end."""
        return self.logs / "result.json"

    @property
    def size(self) -> Path:
        """``bytes`` of the trained weights, as rank 0 counts them before the first step."""
        return self.logs / "size.json"

    def rank_log(self, rank: int) -> Path:
        """Output of rank ``rank``."""
        return self.logs / f"rank{rank}.log"

    def rank_status(self, rank: int) -> Path:
        """How rank ``rank`` ended: exit code and message."""
        return self.logs / f"rank{rank}.json"

    @property
    def launch_file(self) -> Path:
        """Written by node 0 when it starts its ranks; the other nodes then start theirs."""
        return self.logs / "launch.json"

    def node_status(self, node: int) -> Path:
        """How the launcher of node ``node`` ended, in a job over several nodes."""
        return self.logs / f"node{node}.json"

    def node_beat(self, node: int) -> Path:
        """Touched by the launcher of node ``node`` while it runs."""
        return self.logs / f"node{node}.beat"

    def write(self, path: Path) -> None:
        """Write the job as JSON, atomically."""
        write_json(path, asdict(self))

    @staticmethod
    def read(path: Path) -> TrainingJob:
        """The job that :meth:`write` wrote."""
        content = json.loads(path.read_text(encoding="utf-8"))
        recipe = Recipe(**content.pop("recipe"))
        for name in ("blank_rows", "keep"):
            content[name] = tuple(content.get(name, ()))
        return TrainingJob(**content, recipe=recipe)


def read_log(path: Path, *, up_to: int | None = None) -> list[dict[str, Any]]:
    """The records of ``log.jsonl``, one per optimizer step; a half-written last line is left out.

    ``up_to``: only records up to this step.
    """
    if not path.is_file():
        return []
    complete = path.read_text(encoding="utf-8").rpartition("\n")[0]
    records = [json.loads(line) for line in complete.splitlines()]
    return [r for r in records if up_to is None or r["step"] <= up_to]


def write_log(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Replace ``log.jsonl`` by ``records``, atomically."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as handle:
            handle.writelines(json.dumps(record) + "\n" for record in records)

    write_atomic(path, write)
