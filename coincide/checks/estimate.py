"""Estimates before a run: GPU hours and disk space by stage, and the assumptions behind them.

Parts may state their size in ``scale``, plain numbers in their YAML: a dataset ``rows``,
``text_tokens`` (mean per row) and ``pictures`` (different ones), a model ``parameters``, ``hidden``
(of the language model), ``image_tokens`` and whether it reads ``pictures_once``
(``features.share_prefixes``); a benchmark the number of documents ``asked``. If a number is not
known, there is no estimate, rather than an estimate of zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coincide.checks.flops import ASSUMED_MFU, gpu_hours, peak_flops
from coincide.protocols import HasPictureRuns, scale_of
from coincide.schema import (
    AdaptedSignal,
    Clustering,
    Difficulty,
    Method,
    Need,
    SubsetOf,
    TunedSignal,
    UserError,
    WarmUp,
    signals_of,
)
from coincide.selection.budget import count

if TYPE_CHECKING:
    from coincide.experiment import Experiment

BYTES = {"float16": 2, "float32": 4}
PROMPT_TOKENS, ANSWER_TOKENS = 60, 10
"""Of a benchmark's question and of its answer, in the mean."""
GENERATION_MFU = 0.1
"""Share of the peak while answering: token by token, bound by memory."""


@dataclass(frozen=True)
class StageEstimate:
    """Estimate for one stage. None: not known."""

    stage: str
    hours: float | None
    """GPU hours, over all GPUs together."""
    disk: float | None
    """Bytes added to the store."""
    basis: str
    """The numbers that it is computed from, in words."""


def costs(experiment: Experiment, stages: Sequence[str], device: str = "") -> list[StageEstimate]:
    """An estimate for each of ``stages`` that costs something; ``device`` is the GPU's name."""
    makers = {
        "features": _features,
        "select": _select,
        "train": _train,
        "evaluate": _evaluate,
    }
    found = (makers[s](experiment, device) for s in stages if s in makers)
    return [cost for cost in found if cost is not None]


def rows_of(experiment: Experiment) -> int | None:
    """Rows of the dataset: the actual number if it is in the store, else the published one."""
    try:
        data = experiment.store.find(experiment.data)
    except UserError:  # its files are not here
        data = None
    return data.facts["rows"] if data else scale_of(experiment.source).get("rows")


def chosen_of(experiment: Experiment) -> int | None:
    """Number of rows that will be trained on; None if not known."""
    if experiment.method.name != "full" and experiment.method.fixed_size:
        return None
    if isinstance(experiment.budget, int) and not experiment.method.fixed_size:
        return experiment.budget
    rows = rows_of(experiment)
    return rows if rows is None or experiment.method.fixed_size else count(experiment.budget, rows)


def needs_of(method: Method) -> list[Need]:
    """What the method needs, and what the methods need whose subsets it looks at."""
    found: list[Need] = []
    for need in method.needs():
        found += [need, *(needs_of(need.method) if isinstance(need, SubsetOf) else [])]
    return found


def _features(experiment: Experiment, device: str) -> StageEstimate | None:
    """One forward pass a model, 2 FLOP a parameter and token; how much text it reads say its
    signals (``Signal.text_tokens``). A picture is read for every row, or once by a model that can
    (``pictures_once``)."""
    wanted = dict.fromkeys(s for n in needs_of(experiment.method) for s in signals_of(n))
    if not wanted:
        return None
    rows, text = rows_of(experiment), scale_of(experiment.source).get("text_tokens")
    hours, disk, said = 0.0, 0.0, []
    for group, model in experiment.models.items():
        signals = [s for s in wanted if s.model == group]
        if not signals:
            continue
        scale = scale_of(model)
        if rows is None or text is None or "parameters" not in scale:
            return StageEstimate("features", None, None, "sizes of data or model are not known")
        shown = _pictures(experiment, rows) if scale.get("pictures_once") else rows
        tokens = shown * scale["image_tokens"] + rows * signals[0].text_tokens(signals, text)
        hours += gpu_hours(2 * scale["parameters"] * tokens, device)
        values = sum(s.width(scale["hidden"]) * BYTES[s.dtype] for s in signals)
        disk += rows * values
        of = f" ({shown:,} pictures once)" if shown != rows else ""
        said.append(f"{model.name}: {tokens / 1e6:,.0f}M tokens{of} x 2 x {_n(scale)}")
    shared = rows is not None and _pictures(experiment, rows) < rows
    twice = "; twice the disk while it runs" if shared else ""
    return StageEstimate("features", hours, disk, f"{'; '.join(said)} {_at(device)}{twice}")


def _pictures(experiment: Experiment, rows: int) -> int:
    """Pictures that the pass reads: each once if rows may share it and the data states how many."""
    stated = scale_of(experiment.source).get("pictures", rows)
    return min(rows, stated) if experiment.features.share_prefixes else rows


def _select(experiment: Experiment, device: str) -> StageEstimate | None:
    """2 N K D FLOP per iteration of k-means; Self-Filter's stage 1 counts as a finetuning, and so
    does what is trained on a part first (``TunedSignal``), with the passes over that part."""
    rows, needs = rows_of(experiment), needs_of(experiment.method)
    clusterings = list(dict.fromkeys(need for need in needs if isinstance(need, Clustering)))
    stage1 = [need for need in needs if isinstance(need, Difficulty)]
    tuned = [
        need
        for need in needs
        if isinstance(need, TunedSignal) and not isinstance(need.signal, AdaptedSignal)
    ]
    warmed = _warmed(needs)
    if not clusterings and not stage1 and not tuned and not warmed:
        return None
    if rows is None:
        return StageEstimate("select", None, None, "rows of the data are not known")
    hours, disk, said = 0.0, 0.0, []
    for need in clusterings:
        scale = scale_of(experiment.models[need.signal.model])
        if "hidden" not in scale:
            return StageEstimate("select", None, None, "size of the reference is not known")
        columns = need.signal.width(scale["hidden"])
        hours += gpu_hours(2.0 * rows * need.clusters * columns * need.iterations, device)
        disk += 4 * need.clusters * columns
        said.append(f"k-means {rows:,} x {need.clusters:,} x {columns:,} x {need.iterations}")
    finetuned = [
        (f"stage 1 of {each.method} on {each.part:.0%} of the rows", int(each.part * rows),
         each.epochs)
        for each in stage1
    ]  # fmt: skip
    parts = {need.subset: _part(experiment, need.subset, rows) for need in tuned}
    finetuned += [(f"finetuning on {part:,} rows first", part, 1) for part in parts.values()]
    for what, count_of, epochs in finetuned:
        stage = _tuning(experiment, count_of, device)
        if stage is None:
            return StageEstimate("select", None, None, "size of the target is not known")
        hours += stage[0] * epochs
        said.append(f"{what}: {stage[1]}")
    for subset, part in parts.items():
        signals = [need.signal for need in tuned if need.subset == subset]
        scale, text = scale_of(experiment.target), scale_of(experiment.source)["text_tokens"]
        tokens = part * (scale["image_tokens"] + signals[0].text_tokens(signals, text))
        hours += gpu_hours(2 * scale["parameters"] * tokens, device)
        said.append(f"{tokens / 1e6:,.0f}M tokens x 2 x {_n(scale)} over them")
    for warmup, passes in warmed.items():
        stage = _tuning(experiment, int(warmup.at[-1] * rows), device)
        if stage is None:
            return StageEstimate("select", None, None, "size of the target is not known")
        hours += stage[0]
        said.append(f"warm-up over {warmup.at[-1]:.1%} of the rows: {stage[1]}")
        for share, read in passes.items():
            cost, text = _adapted(experiment, read, round(share * rows), device)
            hours += cost
            disk += share * rows * sum(s.width(0) * BYTES[s.dtype] for s in read)
            said.append(text)
    return StageEstimate("select", hours, disk, f"{'; '.join(said)} {_at(device)}")


def _warmed(needs: Sequence[Need]) -> dict[WarmUp, dict[float, list[AdaptedSignal]]]:
    """Warm-up -> share of the pool -> the signals that are read off it there. Target rows are few
    beside the pool and left out."""
    found: dict[WarmUp, dict[float, list[AdaptedSignal]]] = {}
    for need in needs:
        signal: Any = need.signal if isinstance(need, TunedSignal) else need
        share = (need.subset.of_pool or 1.0) if isinstance(need, TunedSignal) else 1.0
        if isinstance(signal, AdaptedSignal):
            found.setdefault(signal.adapter, {}).setdefault(share, []).append(signal)
    return found


def _adapted(
    experiment: Experiment, signals: Sequence[AdaptedSignal], rows: int, device: str
) -> tuple[float, str]:
    """GPU hours of a pass over ``rows`` rows for each checkpoint that ``signals`` name, and what
    they rest on; a backward pass to activations alone costs two forward ones.
    """
    scale, text = scale_of(experiment.target), scale_of(experiment.source)["text_tokens"]
    times = max(signal.passes for signal in signals) * len({signal.at for signal in signals})
    tokens = rows * (scale["image_tokens"] + text) * times
    hours = gpu_hours(2 * scale["parameters"] * tokens, device)
    return hours, f"{tokens / 1e6:,.0f}M tokens x 2 x {_n(scale)} through its adapters"


def _part(experiment: Experiment, subset: SubsetOf, rows: int) -> int:
    """Rows of another method's subset, as ``Experiment.others`` has it."""
    share = int(subset.share * (chosen_of(experiment) or rows) + 1e-9)
    return max(1, min(share, count(subset.at_most, rows)))


def _train(experiment: Experiment, device: str) -> StageEstimate | None:
    chosen = chosen_of(experiment)
    found = None if chosen is None else _tuning(experiment, chosen, device)
    if found is None:
        return StageEstimate("train", None, None, "sizes of data or target are not known")
    return StageEstimate("train", found[0], None, found[1])


def _tuning(experiment: Experiment, rows: int, device: str) -> tuple[float, str] | None:
    scale, text = scale_of(experiment.target), scale_of(experiment.source).get("text_tokens")
    if "parameters" not in scale or text is None:
        return None
    tokens = scale["image_tokens"] + text
    found = experiment.finetuning.estimate_gpu_hours(
        experiment.recipe, rows, scale["parameters"], tokens, device
    )
    return found.hours, found.basis


def _evaluate(experiment: Experiment, device: str) -> StageEstimate | None:
    """2 FLOP a parameter and token. Where the suite shares prefixes, a picture's tokens count once
    and prompts run in batches; answers are bound by memory.
    """
    scale, suite = scale_of(experiment.target), experiment.suite
    benchmarks = list(suite.benchmarks.values())
    counts = [b.asked for b in benchmarks if b.asked is not None]
    if "parameters" not in scale or len(counts) < len(benchmarks):
        return StageEstimate("evaluate", None, None, "sizes of target or benchmarks are not known")
    documents = sum(counts)
    runs = suite.picture_runs if isinstance(suite, HasPictureRuns) else None
    mfu = GENERATION_MFU if runs is None else ASSUMED_MFU
    pictures = documents if runs is None else runs
    prompts = pictures * scale["image_tokens"] + documents * PROMPT_TOKENS
    answers = documents * ANSWER_TOKENS
    hours = gpu_hours(2 * scale["parameters"] * prompts, device, mfu)
    hours += gpu_hours(2 * scale["parameters"] * answers, device, GENERATION_MFU)
    basis = (
        f"{documents:,} questions about {pictures:,} pictures, {prompts / 1e6:,.0f}M tokens of "
        f"prompts at {mfu:.0%} and {answers / 1e6:,.0f}M of answers x 2 x {_n(scale)}"
    )
    return StageEstimate("evaluate", hours, None, f"{basis} {_at(device, GENERATION_MFU)}")


def _n(scale: Mapping[str, Any]) -> str:
    return f"{scale['parameters'] / 1e9:.2f}e9"


def _at(device: str, mfu: float = ASSUMED_MFU) -> str:
    name, peak = peak_flops(device)
    return f"at {mfu:.0%} of {peak / 1e12:.0f} TFLOP/s ({name})"
