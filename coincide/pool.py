"""What a method sees of the data: examples, signals, clusters and scores, out of the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from coincide.schema import (
    Clustering,
    Clusters,
    Dataset,
    DataSource,
    Difficulty,
    Example,
    Signal,
    TargetRows,
    Targets,
)
from coincide.store import Artifact, Step, Store

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class NeedSteps:
    """The steps that meet what a method declared in ``needs()``."""

    signals: Mapping[Signal, Step]
    clusterings: Mapping[Clustering, Step]
    difficulties: Mapping[Difficulty, Step]
    targets: Mapping[Targets, Step] = field(default_factory=dict)
    """The signal of the target rows, whose first need is their data."""
    target_source: DataSource | None = None
    """What opens the target rows' data."""

    def steps(self) -> tuple[Step, ...]:
        """All of them."""
        return (
            *self.signals.values(),
            *self.clusterings.values(),
            *self.difficulties.values(),
            *self.targets.values(),
        )

    def pool(self, store: Store, dataset: Dataset, scored: Step | None = None) -> StorePool:
        """The pool over their artifacts, each verified against its hashes."""
        return StorePool(
            dataset,
            {need: store.verify(step) for need, step in self.signals.items()},
            {need: store.verify(step) for need, step in self.clusterings.items()},
            {need: store.verify(step) for need, step in self.difficulties.items()},
            store.verify(scored) if scored else None,
            {need: self._target_rows(store, step) for need, step in self.targets.items()},
        )

    def _target_rows(self, store: Store, step: Step) -> TargetRows:
        import numpy as np

        from coincide.features.engine.shards import ShardedArray, usable_rows

        assert self.target_source is not None
        dataset = self.target_source.open(store.artifact(step.needs[0]).path)
        folder = store.verify(step).path
        usable = usable_rows([folder])
        usable[list(dataset.dropped)] = False
        return TargetRows(dataset.examples, np.asarray(ShardedArray(folder)), usable)


class StorePool:
    """:class:`coincide.schema.Pool` over the artifacts that the method's needs name."""

    def __init__(
        self,
        dataset: Dataset,
        signals: Mapping[Signal, Artifact],
        clusterings: Mapping[Clustering, Artifact],
        difficulties: Mapping[Difficulty, Artifact],
        scored: Artifact | None = None,
        targets: Mapping[Targets, TargetRows] | None = None,
    ) -> None:
        self._dataset = dataset
        self._signals = signals
        self._clusterings = clusterings
        self._difficulties = difficulties
        self._scored = scored
        self._targets = targets or {}

    @property
    def examples(self) -> Sequence[Example]:
        return self._dataset.examples

    @cached_property
    def usable(self) -> np.ndarray:
        import numpy as np

        usable = np.ones(len(self._dataset), dtype=bool)
        usable[list(self._dataset.dropped)] = False
        if self._signals:
            from coincide.features.engine.shards import usable_rows

            usable &= usable_rows([artifact.path for artifact in self._signals.values()])
        return usable

    def signal(self, signal: Signal) -> Any:
        from coincide.features.engine.shards import ShardedArray

        return ShardedArray(self._signals[signal].path)

    def clusters(self, clustering: Clustering) -> Clusters:
        import numpy as np

        folder = self._clusterings[clustering].path
        return Clusters(
            np.load(folder / "centroids.npy", mmap_mode="r", allow_pickle=False),
            np.load(folder / "assignment.npy", allow_pickle=False),
        )

    def difficulty(self, difficulty: Difficulty) -> np.ndarray:
        import numpy as np

        path = self._difficulties[difficulty].path / "difficulty.npy"
        return np.load(path, allow_pickle=False)

    def targets(self, targets: Targets) -> TargetRows:
        return self._targets[targets]

    def scored(self, method: Any, seed: int) -> Mapping[str, np.ndarray]:
        import numpy as np

        assert self._scored is not None, f"{method.name} has no score"
        files = sorted(self._scored.path.glob("*.npy"))
        return {path.stem: np.load(path, allow_pickle=False) for path in files}
