"""The train stage: the step that finetunes the base model on a subset, and gives an adapter."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from coincide.data.rows import scan
from coincide.models.template import encoding_of
from coincide.schema import DataSource, ModelSource, UserError
from coincide.store import Build, Step, is_sealed
from coincide.store.artifact import SEAL
from coincide.system.files import sha256_file
from train.checkpoint import (
    TrainingCheckpoint,
    contents,
    damaged_checkpoints,
    newest_complete,
    sweep,
)
from train.estimate import CHECKPOINTS_AT_ONCE
from train.job import ADAPTER, LOG, TrainingJob, read_log, write_log
from train.launch import launch
from train.outcome import OutOfMemory
from train.recipe import Recipe, largest_micro_batch
from train.sampler import number_of_steps

VERSION = 2


def train_step(
    recipe: Recipe,
    *,
    model: ModelSource,
    base: Step,
    source: DataSource,
    data: Step,
    subset: Step,
    seed: int,
) -> Step:
    """The step that finetunes ``base`` on ``subset`` with ``recipe``.

    The artifact holds ``adapter/`` (a PEFT folder, the projector included), ``log.jsonl`` (loss,
    learning rate, gradient norm and answer tokens by step) and the ``recipe.json`` that it was made
    with.
    """
    seed = seed if recipe.seed is None else recipe.seed
    config = {
        "recipe": {name: v for name, v in recipe.answer_config().items() if name != "seed"},
        "template": encoding_of(model.template),
        "max_length": min(recipe.max_length, model.max_length),
        "seed": seed,
    }

    def build(build: Build) -> dict[str, Any]:
        job = job_of(build, recipe, model, source, seed)
        return run_job(build, job)

    note = f"{recipe.epochs} epoch(s), global batch {recipe.global_batch}, ZeRO {recipe.zero_stage}"
    name = f"{model.name}-{subset.name}"
    needs = (base, data, subset)
    return Step("adapter", name, VERSION, config, build, needs, note, trained=True)


def world_size(recipe: Recipe) -> int:
    """Number of processes over all nodes; ``auto`` counts this machine's GPUs."""
    if recipe.processes != "auto":
        return int(recipe.processes) * recipe.nodes
    import torch

    return max(1, torch.cuda.device_count()) * recipe.nodes


def job_of(
    build: Build, recipe: Recipe, model: ModelSource, source: DataSource, seed: int
) -> TrainingJob:
    """The job of a build that needs, in this order, the base model, the data and a subset."""
    base, data, subset = (build.need(i) for i in range(3))
    dataset = source.open(data.path)
    processes = world_size(recipe)
    micro_batch = _micro_batch_that_fits(build.dir / "recipe.json", recipe, processes)
    return TrainingJob(
        model=str(base.path / "model"),
        base=build.step.needs[0].folder,
        template=model.template,
        max_length=min(recipe.max_length, model.max_length),
        annotations=str(subset.path / "subset.json"),
        image_root=str(dataset.image_root),
        blank_rows=_positions(subset.path / "rows.npy", dataset.blank_images),
        seed=seed,
        world_size=processes,
        micro_batch=micro_batch,
        accumulation=recipe.accumulation(processes, micro_batch),
        output=str(build.dir),
        resume_from=None,
        recipe=recipe,
        rows=str(subset.path / "rows.npy") if recipe.order == "rows" else "",
    )


def _micro_batch_that_fits(former: Path, recipe: Recipe, processes: int) -> int:
    """The recipe's micro-batch, or the smaller one that a stopped attempt had to use for lack of
    memory.

    ``former``: recipe.json of that attempt; it counts only with the same recipe and layout.
    """
    with suppress(OSError, ValueError, KeyError, TypeError):  # none, or a damaged one
        job = TrainingJob.read(former)
        if (job.recipe, job.world_size) == (recipe, processes):
            return job.micro_batch
    return recipe.micro_batch


def _positions(rows_path: Path, wanted: frozenset[int]) -> tuple[int, ...]:
    """Positions in the subset of the dataset rows ``wanted``."""
    import numpy as np

    rows = np.load(rows_path)
    return tuple(np.flatnonzero(np.isin(rows, sorted(wanted))).tolist()) if wanted else ()


def run_job(build: Build, job: TrainingJob) -> dict[str, Any]:
    """Run the job, with smaller and smaller micro-batches while memory runs out; facts for the
    manifest. Raises UserError for examples without an answer token.
    """
    examples = sum(1 for _ in scan(Path(job.annotations)))
    recipe = job.recipe
    steps = number_of_steps(examples, recipe.global_batch, recipe.epochs, recipe.max_steps)
    steps = job.keep[-1] if job.keep else steps
    build.scratch = (job.checkpoints.name, job.logs.name)  # until the adapter stands
    finished = _is_finished(job, build.dir / "recipe.json", steps)
    if finished:
        print("train: finished by an attempt that was killed at its end", flush=True)
    while not finished:
        job = _prepare(job)
        job.write(build.dir / "recipe.json")
        try:
            launch(job, build.dir / "recipe.json", steps=steps)
            break
        except OutOfMemory as error:
            job = with_smaller_batch(job, error)
        except OSError:
            _expect(build, job, steps)
            raise
    facts = _facts(job, examples, build.attempt)
    if not facts["answer_tokens"]:
        raise UserError(
            f"the {examples:,} examples have no answer token in {job.max_length:,} tokens: nothing "
            "was learnt, and the adapter is not kept. Choose other rows, or raise train.max_length "
            "and target.max_length."
        )
    return facts


def _expect(build: Build, job: TrainingJob, steps: int) -> None:
    """Tell ``build`` the bytes of the adapter and of checkpoints: three times the weights each,
    with two moments.
    """
    with suppress(OSError, ValueError):  # it was full before a rank could count
        size = json.loads(job.size.read_text(encoding="utf-8"))["bytes"]
        kept = min(CHECKPOINTS_AT_ONCE, steps // (job.recipe.save_every or steps + 1))
        build.expect(size * (1 + 3 * kept))


def _is_finished(job: TrainingJob, former: Path, steps: int) -> bool:
    """Whether an attempt at the same job was killed after its last step, with a complete
    adapter.
    """
    try:
        then = replace(TrainingJob.read(former), resume_from=None)
        result = json.loads(job.result.read_text(encoding="utf-8"))
        logged = read_log(job.log)
        return (
            then == replace(job, resume_from=None)
            and is_sealed(result)
            and result[ADAPTER] == contents(job.adapter)
            and result[LOG] == sha256_file(job.log)
            and [record["step"] for record in logged[-1:]] == [result["steps"]] == [steps]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _prepare(job: TrainingJob) -> TrainingJob:
    """The job, set to resume from its newest complete checkpoint.

    The log is cut back to that step.
    """
    found = newest_complete(job.checkpoints, check=True)
    if found is not None and any(not job.kept(s).is_dir() for s in job.keep if s <= found.step):
        print("train: what was to be kept before the checkpoint is not there; from the beginning")
        found = None
    if found is not None:
        found.check_layout(job.world_size, job.recipe.zero_stage)
    damaged = damaged_checkpoints(job.checkpoints, newer_than=found)
    broken = sweep(job.checkpoints, found)
    _announce(found, broken, damaged)
    write_log(job.log, _logged(job, found) if found else [])
    shutil.rmtree(job.adapter, ignore_errors=True)
    return replace(job, resume_from=str(found.path) if found else None)


def _logged(job: TrainingJob, found: TrainingCheckpoint) -> list[dict[str, Any]]:
    """The log up to a checkpoint, from its own copy; those of earlier versions have none."""
    own = found.path / job.log.name
    return read_log(own if own.is_file() else job.log, up_to=found.step)


def _announce(found: TrainingCheckpoint | None, broken: list[str], damaged: list[str]) -> None:
    if broken:
        print(f"train: {', '.join(broken)} was half written and is not used", flush=True)
    if damaged:
        print(
            f"train: {', '.join(damaged)} is damaged (SHA-256 differs) and is not used", flush=True
        )
    if found is not None:
        print(f"train: resumed at step {found.step:,} ({found.path.name})", flush=True)


def with_smaller_batch(job: TrainingJob, error: OutOfMemory) -> TrainingJob:
    """The same job with at most half the micro-batch and the same global batch.

    Raises UserError, quoting ``error``, if no smaller micro-batch divides the global batch.
    """
    recipe = job.recipe
    fitting = largest_micro_batch(recipe.global_batch, job.world_size, job.micro_batch // 2)
    if fitting is None:
        raise UserError(
            f"Training does not fit into memory with train.micro_batch={job.micro_batch}: {error}\n"
            "Set train.gradient_checkpointing=true, train.zero_stage=3, a smaller "
            "train.max_length, or use more or larger GPUs."
        ) from error
    accumulation = recipe.accumulation(job.world_size, fitting)
    print(
        f"train: out of memory with train.micro_batch={job.micro_batch}; going on with {fitting} "
        f"and {accumulation} accumulation step(s), the global batch stays {recipe.global_batch}",
        flush=True,
    )
    return replace(job, micro_batch=fitting, accumulation=accumulation)


def _facts(job: TrainingJob, examples: int, attempts: int) -> dict[str, Any]:
    records = read_log(job.log)
    result = json.loads(job.result.read_text(encoding="utf-8"))
    return {
        **{name: value for name, value in result.items() if name not in (ADAPTER, LOG, SEAL)},
        "loss_first": records[0]["loss"],
        "loss_last": records[-1]["loss"],
        "examples": examples,
        "answer_tokens": sum(record["answer_tokens"] for record in records),
        "world_size": job.world_size,
        "zero_stage": job.recipe.zero_stage,
        "micro_batch": job.micro_batch,
        "accumulation": job.accumulation,
        "attempts": attempts,
    }
