"""What a method sees of the data: examples, signals, clusters and scores, read from the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from coincide.data.reasons import Reasons, merged, rows_of
from coincide.schema import (
    Checkpoint,
    Clustering,
    Clusters,
    Dataset,
    DataSource,
    Difficulty,
    Example,
    Signal,
    SubsetOf,
    TargetRows,
    Targets,
    TunedSignal,
    WarmUp,
)
from coincide.selection.scan import read_scan
from coincide.store import Step, Store

if TYPE_CHECKING:
    import numpy as np

NO_SIGNAL = "no signal of the reference or CLIP model"


@dataclass(frozen=True)
class NeedSteps:
    """The steps whose artifacts meet the needs that a method declares."""

    signals: Mapping[Signal, Step]
    clusterings: Mapping[Clustering, Step]
    difficulties: Mapping[Difficulty, Step]
    targets: Mapping[Targets, Step] = field(default_factory=dict)
    """Steps of the target rows' signals; the first need of each step is the target rows' data."""
    target_source: DataSource | None = None
    """The dataset of the target rows."""
    subsets: Mapping[SubsetOf, Step] = field(default_factory=dict)
    tuned: Mapping[TunedSignal, Step] = field(default_factory=dict)
    warmups: Mapping[WarmUp, Step] = field(default_factory=dict)

    def steps(self) -> tuple[Step, ...]:
        """All of these steps."""
        return (
            *self.signals.values(),
            *self.clusterings.values(),
            *self.difficulties.values(),
            *self.targets.values(),
            *self.subsets.values(),
            *self.tuned.values(),
            *self.warmups.values(),
        )

    def pool(
        self,
        store: Store,
        dataset: Dataset,
        scored: Step | None = None,
        barred: Mapping[int, str] | None = None,
    ) -> StorePool:
        """The pool that reads their artifacts.

        ``scored``: step of the method's scores. ``barred``: row -> reason, for rows that the target
        model cannot read or cannot learn anything from.
        """
        return StorePool(store, self, dataset, scored, barred)

    def target_rows(self, store: Store, step: Step) -> TargetRows:
        """The target rows' examples and their signal, read from the artifact of ``step``."""
        import numpy as np

        from coincide.features.engine.shards import ShardedArray, usable_rows

        assert self.target_source is not None
        dataset = self.target_source.open(store.verify(step.needs[0]).path)
        folder = store.verify(step).path
        usable = usable_rows([folder])
        usable[rows_of(dataset.dropped)] = False
        return TargetRows(dataset.examples, np.asarray(ShardedArray(folder)), usable)

    def refused(self, store: Store) -> dict[int, str]:
        """Row -> reason, for rows that the model of a signal could not read."""
        scans = {scan.key: scan for step in self.signals.values() for scan in step.after}
        found = [read_scan(store, scan) for scan in scans.values()]
        return {row: kind for scan in found for row, (kind, _) in scan.refused.items()}


class StorePool:
    """:class:`coincide.schema.Pool`, reading the artifacts that the method's needs name.

    Each file is compared with its hash before it is read; files that are not read are not hashed.
    """

    def __init__(
        self,
        store: Store,
        needs: NeedSteps,
        dataset: Dataset,
        scored: Step | None = None,
        barred: Mapping[int, str] | None = None,
    ) -> None:
        self._store = store
        self._needs = needs
        self._dataset = dataset
        self._scored = scored
        self._targets: dict[Targets, TargetRows] = {}
        self._barred = {**needs.refused(store), **(barred or {})}

    @property
    def examples(self) -> Sequence[Example]:
        return self._dataset.examples

    @cached_property
    def usable(self) -> np.ndarray:
        import numpy as np

        usable = np.ones(len(self._dataset), dtype=bool)
        usable[rows_of(self.reasons)] = False
        return usable

    @cached_property
    def without_features(self) -> np.ndarray:
        """Rows of the pool without a valid value of a needed signal, int64."""
        import numpy as np

        if not self._needs.signals:
            return np.empty(0, np.int64)

        from coincide.features.engine.shards import usable_rows

        steps = self._needs.signals.values()
        valid = usable_rows([self._store.verify(step, "valid-*").path for step in steps])
        for left_out in (self._dataset.dropped, self._barred):
            valid[rows_of(left_out)] = True
        return np.flatnonzero(~valid)

    @cached_property
    def reasons(self) -> Reasons:
        """Row -> reason, for every row that is not usable."""
        size = len(self._dataset)
        lacking = Reasons.of(size, [(self.without_features, NO_SIGNAL)])
        return merged(size, lacking, self._barred, self._dataset.dropped)

    def signal(self, signal: Signal) -> Any:
        from coincide.features.engine.shards import ShardedArray

        return ShardedArray(self._store.verify(self._needs.signals[signal]).path)

    def clusters(self, clustering: Clustering) -> Clusters:
        import numpy as np

        folder = self._store.verify(self._needs.clusterings[clustering]).path
        return Clusters(
            np.load(folder / "centroids.npy", mmap_mode="r", allow_pickle=False),
            np.load(folder / "assignment.npy", allow_pickle=False),
        )

    def difficulty(self, difficulty: Difficulty) -> np.ndarray:
        import numpy as np

        artifact = self._store.verify(self._needs.difficulties[difficulty], "difficulty.npy")
        return np.load(artifact.path / "difficulty.npy", allow_pickle=False)

    def targets(self, targets: Targets) -> TargetRows:
        if targets not in self._targets:
            step = self._needs.targets[targets]
            self._targets[targets] = self._needs.target_rows(self._store, step)
        return self._targets[targets]

    def subset(self, subset: SubsetOf) -> np.ndarray:
        import numpy as np

        artifact = self._store.verify(self._needs.subsets[subset], "rows.npy")
        rows: np.ndarray = np.load(artifact.path / "rows.npy", allow_pickle=False)
        return rows

    def tuned(self, tuned: TunedSignal) -> np.ndarray:
        import numpy as np

        from coincide.features.engine.shards import ShardedArray, read_valid

        folder = self._store.verify(self._needs.tuned[tuned]).path
        values = np.asarray(ShardedArray(folder))
        return np.where(read_valid(folder)[:, None], values, values.dtype.type(np.nan))

    def warmup(self, warmup: WarmUp) -> Sequence[Checkpoint]:
        facts = self._store.artifact(self._needs.warmups[warmup]).facts
        return [Checkpoint(**each) for each in facts["checkpoints"]]

    def scored(self, method: Any, seed: int) -> Mapping[str, np.ndarray]:
        import numpy as np

        assert self._scored is not None, f"{method.name} has no score"
        files = sorted(self._store.verify(self._scored).path.glob("*.npy"))
        return {path.stem: np.load(path, allow_pickle=False) for path in files}
