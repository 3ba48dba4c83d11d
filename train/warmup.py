"""Warm-ups: a short finetuning before anything is selected, whose adapters methods look through.

What they are kept at are shares of the pool, not step numbers, which hold for one batch size only:
the step at which a share of the rows has passed follows from the recipe's global batch.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from math import fsum
from pathlib import Path
from typing import Any

from coincide.data.rows import scan
from coincide.models.template import encoding_of
from coincide.schema import Checkpoint, DataSource, ModelSource, UserError, WarmUp
from coincide.store import Build, Step
from train.job import TrainingJob, read_log
from train.recipe import Recipe
from train.sampler import number_of_steps
from train.stage import job_of, run_job

VERSION = 1


def warmup_step(
    need: WarmUp,
    recipe: Recipe,
    *,
    model: ModelSource,
    base: Step,
    source: DataSource,
    data: Step,
    subset: Step,
    seed: int,
) -> Step:
    """The step that finetunes ``base`` on ``subset`` with the fields of ``recipe`` that ``need``
    changes, and keeps adapter and moments at its shares of the rows of ``source``.

    The artifact holds ``model/at-00/``, ...: a PEFT folder with ``moments.safetensors`` beside it;
    ``log.jsonl`` and ``recipe.json``. Its facts hold ``checkpoints``. Raises UserError for a field
    that recipes do not have.
    """
    own = recipe_of(need, recipe)
    config = {
        "recipe": own.answer_config(),
        "template": encoding_of(model.template),
        "max_length": min(own.max_length, model.max_length),
        "seed": seed,
        "at": list(need.at),
    }

    def build(build: Build) -> dict[str, Any]:
        job = job_of(build, own, model, source, seed)
        examples = sum(1 for _ in scan(Path(job.annotations)))
        job = replace(job, keep=steps_at(need.at, source.size(), examples, own))
        facts = run_job(build, job)
        shutil.rmtree(job.adapter)  # it is the last that was kept
        kept = [asdict(each) for each in checkpoints(job, need.at)]
        return {**facts, "checkpoints": kept}

    shares = ", ".join(f"{share:.1%}" for share in need.at)
    note = f"warm-up, kept after {shares} of the pool's rows"
    name = f"{model.name}-{subset.name}"
    needs = (base, data, subset)
    return Step("warmup", name, VERSION, config, build, needs, note, trained=True)


def recipe_of(need: WarmUp, recipe: Recipe) -> Recipe:
    """``recipe`` with the fields that ``need`` changes; UserError for one that there is not."""
    names = [field.name for field in fields(recipe)]
    unknown = [name for name, _ in need.recipe if name not in names]
    if unknown:
        raise UserError(
            f"the recipe of a warm-up sets {', '.join(unknown)}; a recipe has {', '.join(names)}."
        )
    return replace(recipe, **dict(need.recipe))


def steps_at(shares: Sequence[float], rows: int, examples: int, recipe: Recipe) -> tuple[int, ...]:
    """The optimizer steps after which ``shares`` of ``rows`` rows have passed, to the nearest step.

    The finetuning is on ``examples`` of them. Raises UserError where two shares fall on one step,
    and where so many rows never pass.
    """
    most = number_of_steps(examples, recipe.global_batch, recipe.epochs, recipe.max_steps)
    found = [max(1, round(share * rows / recipe.global_batch)) for share in shares]
    if found[-1] > 1.1 * most + 1:
        raise UserError(
            f"a warm-up is to keep its adapter after {shares[-1]:.1%} of the pool's {rows:,} rows, "
            f"step {found[-1]:,}; {recipe.epochs} epoch(s) of {examples:,} examples are {most:,} "
            f"steps of {recipe.global_batch}. Set smaller shares, or more epochs."
        )
    steps = tuple(min(step, most) for step in found)
    if len(set(steps)) < len(steps):
        raise UserError(
            f"a warm-up is to keep adapters after the shares {list(shares)} of {rows:,} rows: with "
            f"batches of {recipe.global_batch} these are the steps {list(steps)} of {most:,}, and "
            "two of them are one. Set shares that lie further apart, or a smaller global_batch in "
            "the warm-up's recipe."
        )
    return steps


def checkpoints(job: TrainingJob, shares: Sequence[float]) -> list[Checkpoint]:
    """What was kept, by the job's log."""
    rates = {record["step"]: record["learning_rate"] for record in read_log(job.log)}
    found, before = [], 0
    for share, step in zip(shares, job.keep, strict=True):
        mean = fsum(rates[s] for s in range(before + 1, step + 1)) / (step - before)
        found.append(Checkpoint(share, step, step * job.recipe.global_batch, mean))
        before = step
    return found
