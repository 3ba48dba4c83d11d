"""Self-Filter's stage 1: a score net learns, together with the model, which examples are difficult.

The net S is one linear layer without bias on f, CLIP's image and text embedding side by side. For a
batch of B examples, w = softmax of S(f) over the batch, and

    loss = sum over answer tokens t of example i: B w_i CE_it / number of answer tokens

So the net learns to give little weight to what the model cannot fit: difficulty d_i = -S(f_i) (Chen
et al. 2024, equations 2-4; RayRuiboChen/Self-Filter, setting *clip*).

As released: the vision tower is frozen, projector and language model are trained in full, one batch
is one device's batch. Ours differs: one epoch instead of three, S starts at zero (so that d is what
was learnt, not what was drawn), and rows without an image or without answer tokens take no part.

One process trains on one device. Weights, gradients and Adam's moments are fp32, 16 bytes per
parameter: 113 GB for LLaVA-1.5-7B, more than one GPU of 80 GB has. On a GPU with bf16 the forward
and backward pass run in bf16 (autocast). When memory runs out, a batch is run in parts whose losses
are normalised over the whole batch, so the step is the same up to rounding. A killed stage 1
resumes from its checkpoint, to the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from coincide.data.reasons import merged
from coincide.models.template import encoding_of
from coincide.schema import DataSource, Difficulty, ModelSource
from coincide.selection.scan import read_scan
from coincide.store import Build, Step
from train.recipe import Recipe

VERSION = 1


def difficulty_step(
    need: Difficulty,
    signals: Sequence[Step],
    *,
    model: ModelSource,
    base: Step,
    source: DataSource,
    data: Step,
    recipe: Recipe | None = None,
    scan: Step | None = None,
) -> Step:
    """The step of stage 1, of Self-Filter or of CoIDO (``train.joint_scorer``). ``signals`` are the
    steps of ``need.signals``.

    The artifact holds ``difficulty.npy`` float32 [N] (NaN: took no part), ``score_net.safetensors``
    (``weight`` [1, image + text], or the tensors of CoIDO's net), the stage-1 model under
    ``model/`` and ``log.json``. Only the
    fields of ``recipe`` that do not change the result are used: ``gradient_checkpointing`` and
    ``save_every``. Rows that ``scan`` found unreadable for the model take no part.
    """
    config = {
        **need.step_config(),
        "template": encoding_of(model.template),
        "max_length": model.max_length,
    }

    def build(build: Build) -> dict[str, Any]:
        from train.stage_one import learn

        dataset = source.open(build.need(0).path)
        folders = [build.store.verify(step).path for step in signals]
        if scan is not None:
            refused = read_scan(build.store, scan).refused
            gone = {row: kind for row, (kind, _) in refused.items()}
            dataset = replace(dataset, dropped=merged(len(dataset), dataset.dropped, gone))
        return learn(build, need, model, dataset, folders, recipe)

    name = f"{model.name}-{source.name}"
    needs = (data, base, *signals)
    after = (scan,) if scan else ()
    return Step("difficulty", name, VERSION, config, build, needs, trained=True, after=after)
