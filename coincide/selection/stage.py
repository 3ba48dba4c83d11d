"""The select stage: number of examples, selection by the method, checks, and the subset artifact.

The method ranks. This module guarantees that the rows are unique, in range, usable, and exactly k.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from coincide.config import HealthLimits
from coincide.data.columns import sources
from coincide.data.reasons import count_by_reason
from coincide.data.report import FIRST
from coincide.protocols import HasKeyConfig
from coincide.schema import (
    Clustering,
    Dataset,
    DataSource,
    HealthError,
    Method,
    Selection,
    UserError,
)
from coincide.selection.budget import count
from coincide.selection.pool import NeedSteps, StorePool
from coincide.selection.scan import summary
from coincide.selection.scoring import LATE, barred_rows, own_class
from coincide.store import Artifact, Build, Step
from coincide.system.files import write_array, write_atomic
from coincide.terminal.progress import bar

if TYPE_CHECKING:
    import numpy as np

CLUSTERS_VERSION = 1
SUBSET_VERSION = 3


# --- clusters ---------------------------------------------------------------------------------


def clusters_step(clustering: Clustering, features: Step) -> Step:
    """Step of the spherical k-means clustering of one signal's usable rows.

    Shared between methods.
    """
    config = {
        "clusters": clustering.clusters,
        "iterations": clustering.iterations,
        "seed": clustering.seed,
    }
    name = f"{features.name}-k{clustering.clusters}"
    gaps = clustering.signal.nan_allowed
    return Step(
        "clusters", name, CLUSTERS_VERSION, config, lambda b: _cluster(b, gaps), needs=(features,)
    )


def _cluster(build: Build, gaps: bool) -> Mapping[str, Any]:
    """``gaps``: rows whose signal is NaN, "has no value", are left out."""
    import numpy as np

    from coincide.features.engine.shards import ShardedArray, read_valid
    from coincide.ops.kmeans import clustering_health, kmeans_on

    folder = build.store.verify(build.step.needs[0]).path
    config = build.step.config
    valid = read_valid(folder)
    if gaps:
        valid &= _has_value(ShardedArray(folder))
    rows = np.flatnonzero(valid)
    values: Any = ShardedArray(folder) if len(rows) == len(valid) else ShardedArray(folder, rows)
    state = build.dir / "state.npz"  # of an attempt that was killed
    try:
        with bar("clusters", total=config["iterations"] + 1, unit="iteration") as shown:
            centroids, found = kmeans_on(
                _devices(),
                values,
                config["clusters"],
                config["iterations"],
                config["seed"],
                keep=state,
                on_iteration=lambda _: shown.update(1),
            )
    except ValueError as error:
        raise UserError(f"clustering {build.step.needs[0].folder}: {error}") from error
    assignment = np.full(len(valid), -1, dtype=np.int32)
    build.expect(centroids.nbytes + assignment.nbytes)
    assignment[rows] = found
    write_array(build.dir / "centroids.npy", centroids)
    write_array(build.dir / "assignment.npy", assignment)
    state.unlink(missing_ok=True)
    return clustering_health(values, centroids, found)


def _has_value(x: Any) -> np.ndarray:
    """bool [N]: rows of ``x`` [N, D] without NaN, read in blocks."""
    import numpy as np

    starts = range(0, len(x), 65536)
    return np.concatenate([~np.isnan(x[i : i + 65536]).any(axis=1) for i in starts])


def _devices() -> list[str]:
    """All GPUs (k-means runs one process for each); without any, the CPU."""
    import torch

    return [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]


# --- the subset -------------------------------------------------------------------------------


def subset_step(
    method: Method,
    *,
    budget: float | int,
    seed: int,
    source: DataSource,
    data: Step,
    needs: NeedSteps,
    scored: Step | None = None,
    scan: Step | None = None,
    barred: str = "",
    health: HealthLimits,
) -> Step:
    """The step that selects one method's subset at one budget.

    The key contains k, the exact number of examples: 0.2 and 800 of 4,000 rows are the same subset.
    The seed is in the key only if the method uses it.

    ``scored`` is the method's scores step, if it has one (``coincide.selection.scoring``). ``scan``
    finds the rows that cannot be chosen; ``barred`` is its digest, part of the key if there are
    any. ``health`` limits are not part of the key: they decide whether to go on, not what is
    chosen.
    """
    config: dict[str, Any] = {
        "method": method.name,
        **own_class(method),
        "params": method_config(method),
    }
    if not method.fixed_size:
        config["k"] = count(budget, source.size())
    if method.uses_seed:
        config["seed"] = seed
    config |= {"barred": barred} if barred else {}

    def build(build: Build) -> Mapping[str, Any]:
        store = build.store
        dataset = source.open(build.need(0).path)
        pool = needs.pool(store, dataset, scored, barred_rows(store, scan, barred))
        check_lost(build.need(0), health)
        _tell(pool, dataset)
        clusterings = {n: store.artifact(s) for n, s in needs.clusterings.items()}
        check_health(pool, clusterings, health, len(pool.reasons) - len(pool.without_features))
        return _select(build, method, pool, dataset, budget, seed)

    suffix = f"-s{seed}" if method.uses_seed else ""
    size = "" if method.fixed_size else f"-{budget}"
    name = f"{method.name}-{source.name}{size}{suffix}"
    upstream = (data, *needs.steps(), *([scored] if scored else []))
    after = (scan,) if scan else ()
    return Step("subset", name, SUBSET_VERSION, config, build, upstream, after=after, late=LATE)


def _tell(pool: StorePool, dataset: Dataset) -> None:
    """Print how many rows no method may choose, and why."""
    if pool.reasons:
        print(
            f"select: {len(pool.reasons):,} of {len(dataset):,} rows of {dataset.name} cannot be "
            "chosen:\n"
            f"{summary(dataset, pool.reasons)}",
            flush=True,
        )


def method_config(method: Method) -> dict[str, Any]:
    """What determines the method's result: its ``key_config()`` if it has one, else its fields."""
    if isinstance(method, HasKeyConfig):
        return dict(method.key_config())
    return asdict(method)  # type: ignore[call-overload]


def _select(
    build: Build, method: Method, pool: StorePool, dataset: Dataset, budget: float | int, seed: int
) -> Mapping[str, Any]:
    from coincide.data.subset import write_subset

    k = len(dataset) if method.fixed_size else count(budget, len(dataset))
    started = time.monotonic()
    selection = method.select(pool, k, seed)
    if method.fixed_size:
        k = len(selection.rows)
    rows, added = fill_to_budget(selection, k, pool.usable, method.name, pool.reasons)
    seconds = time.monotonic() - started
    labels = sources(dataset.examples)
    _write_tables(build, selection)
    write_array(build.dir / "order.npy", selection_order(selection, rows, pool.usable))
    facts = {
        "method": method.name,
        "params": method_config(method),
        "budget": k / len(dataset),
        "k": k,
        "rows": len(dataset),
        "topped_up": added,
        "unusable": int((~pool.usable).sum()),
        "unusable_by": count_by_reason(pool.reasons),
        "composition": labels.counts(rows),
        "pool_composition": labels.counts(),
        "select_seconds": round(seconds, 3),
        "details": dict(selection.facts),
    }
    write_subset(build.dir, dataset, rows, facts, told=build.expect)
    return facts


def _write_tables(build: Build, selection: Selection) -> None:
    if selection.scores is not None:
        write_array(build.dir / "scores.npy", selection.scores.astype("float32"))
    if not selection.tables:
        return
    import pandas as pd

    for name, columns in selection.tables.items():
        frame = pd.DataFrame({column: list(values) for column, values in columns.items()})
        write_atomic(build.dir / f"{name}.parquet", frame.to_parquet)


def selection_order(selection: Selection, rows: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Row indices int64 in the order in which the method takes them.

    First the rows that it chose, then its ``ranking`` as far as given. All of ``rows`` are among
    them; the first k' of them are the selection for a smaller budget k'.
    """
    import numpy as np

    ranking = np.asarray([] if selection.ranking is None else selection.ranking, np.int64)
    ranking = ranking[usable[ranking]]
    taken = np.concatenate([np.asarray(selection.rows, np.int64), ranking, rows])
    _, first = np.unique(taken, return_index=True)
    return taken[np.sort(first)]


def fill_to_budget(
    selection: Selection,
    k: int,
    usable: np.ndarray,
    name: str,
    reasons: Mapping[int, str] | None = None,
) -> tuple[np.ndarray, int]:
    """Exactly ``k`` rows, sorted, and how many of them were added from the ranking.

    A selection with fewer than k rows is filled up from its ``ranking``, in order, without
    repetitions. Raises UserError if the result is not k distinct usable rows, which is a fault of
    the method ``name``; ``reasons`` says why rows are not usable.
    """
    import numpy as np

    reasons = reasons or {}

    # the method's rows must be in range, distinct, usable, and at most k
    rows = np.asarray(selection.rows, dtype=np.int64)
    if len(rows) and (rows.min() < 0 or rows.max() >= len(usable)):
        raise UserError(f"method {name} returned rows outside 0..{len(usable) - 1}.")
    if len(np.unique(rows)) != len(rows):
        raise UserError(f"method {name} returned some rows twice.")
    if not usable[rows].all():
        raise UserError(_unusable(rows[~usable[rows]].tolist(), name, reasons))
    if len(rows) > k:
        raise UserError(f"method {name} returned {len(rows)} rows for a budget of {k}.")
    # too few: the best rows of the ranking that are usable and not chosen yet
    missing = k - len(rows)
    if missing:
        ranking = np.asarray([] if selection.ranking is None else selection.ranking, np.int64)
        spare = ranking[usable[ranking] & ~np.isin(ranking, rows)][:missing]
        rows = np.concatenate([rows, spare])
    # still too few: the budget cannot be met, or there is nothing at all
    if len(rows) < k:
        raise UserError(
            f"method {name} can give {len(rows):,} of the {k:,} examples that the budget asks for: "
            f"{int(usable.sum()):,} of {len(usable):,} rows are usable{_because(reasons)}. "
            "Lower the budget."
        )
    if not len(rows):
        raise UserError(
            f"method {name}: there is no row to train on; {int(usable.sum()):,} of "
            f"{len(usable):,} rows are usable{_because(reasons)}."
        )
    return np.sort(rows), missing


def _because(reasons: Mapping[int, str]) -> str:
    """The reasons with their counts, as text: `` (2 x missing image, ...)``."""
    listed = ", ".join(
        f"{count:,} x {reason}" for reason, count in count_by_reason(reasons).items()
    )
    return f" ({listed})" if listed else ""


def _unusable(rows: Sequence[int], name: str, reasons: Mapping[int, str]) -> str:
    """The message for a selection with unusable rows: which, why, and what to do."""
    by: dict[str, list[int]] = {}
    for row in sorted(rows):
        by.setdefault(reasons.get(row, "not usable"), []).append(row)
    lines = [
        f"  {len(found):,} x {reason}: rows {', '.join(map(str, found[:FIRST]))}"
        + (", ..." if len(found) > FIRST else "")
        for reason, found in by.items()
    ]
    return "\n".join(
        [
            f"method {name} returned {len(rows):,} unusable rows, counted from 0:",
            *lines,
            "Bring back what these rows lack (the images, for lost ones), or take them out of what "
            "the method returns; of a file: out of method.path.",
        ]
    )


# --- the health gate --------------------------------------------------------------------------


def check_health(
    pool: StorePool,
    clusterings: Mapping[Clustering, Artifact],
    limits: HealthLimits,
    left_out: int = 0,
) -> None:
    """Raise HealthError, naming figure and limit, if features or clusters are broken.

    The ``left_out`` rows that no model was meant to see do not count as rows without features; rows
    that the data lost have a limit of their own (:func:`check_lost`).
    """
    problems = []
    asked = len(pool.usable) - left_out
    unusable = 1 - int(pool.usable.sum()) / asked if asked else 0.0
    if unusable > limits.invalid_rows:
        rows = "rows that it was given" if left_out else "rows"
        problems.append(
            f"{unusable:.1%} of the {rows} are unusable (health.invalid_rows={limits.invalid_rows})"
        )
    for clustering, artifact in clusterings.items():
        facts, k = artifact.facts, clustering.clusters
        if facts["coinciding_centroids"]:
            problems.append(
                f"{facts['coinciding_centroids']} of {k} centroids coincide with another"
            )
        if facts["largest_share"] > limits.largest_cluster:
            problems.append(
                f"one of {k} clusters holds {facts['largest_share']:.1%} of the rows "
                f"(health.largest_cluster={limits.largest_cluster})"
            )
        if facts["empty_clusters"] > limits.empty_clusters * k:
            problems.append(
                f"{facts['empty_clusters']} of {k} clusters are empty "
                f"(health.empty_clusters={limits.empty_clusters})"
            )
    if problems:
        raise HealthError(
            "The health gate is closed, nothing was trained: " + "; ".join(problems) + ". "
            "Look at the reference model and the number of clusters; the limits are config."
        )


def check_lost(data: Artifact, limits: HealthLimits) -> None:
    """Raise HealthError before the feature pass if the data's policies dropped too many rows."""
    lost, rows = data.facts.get("dropped", 0), data.facts["rows"]
    if lost <= limits.lost_rows * rows:
        return
    report = json.loads((data.path / "report.json").read_text(encoding="utf-8"))
    kinds = {kind: found["count"] for kind, found in report["problems"].items()}
    policies = sorted({f"data.{found['policy']}" for found in report["problems"].values()})
    listed = ", ".join(f"{count:,} x {kind}" for kind, count in kinds.items())
    raise HealthError(
        f"{lost:,} of {rows:,} rows ({lost / rows:.1%}) of {data.manifest['name']} are lost, more "
        f"than health.lost_rows={limits.lost_rows:g} allows: {listed}. They were left out by "
        f"{' and '.join(policies)}. Bring the files back (python -m coincide.doctor says what is "
        "missing), or raise health.lost_rows to go on without them. Nothing was computed."
    )
