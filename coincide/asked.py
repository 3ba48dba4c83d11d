"""What an experiment asks for, as its configuration tells before there are data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from coincide.needs import read_by, subsets_of
from coincide.protocols import EvaluationSuite, FinetuningRecipe
from coincide.schema import (
    AdaptedSignal,
    DataSource,
    Difficulty,
    Method,
    ModelSource,
    Need,
    SignalModel,
    Targets,
    TunedSignal,
    UserError,
    WarmUp,
    signals_of,
)
from coincide.store import Store


@dataclass(kw_only=True)
class Asked:
    """The parts that decide which needs an experiment has, and which parts its stages use."""

    store: Store
    source: DataSource
    method: Method
    models: Mapping[str, SignalModel]
    """The models that signals come from, by the name that signals have as ``model``."""
    target: ModelSource
    recipe: FinetuningRecipe
    suite: EvaluationSuite
    targets: DataSource | None = None
    """The dataset of the target rows, for methods that use them."""

    def asks(self, model: str) -> bool:
        """Whether the method needs a signal of the model of that name."""
        needs = self.all_needs
        wanted = [
            *(s for n in needs for s in signals_of(n)),
            *(t.signal for t in targets_of(needs)),
        ]
        return any(signal.model == model for signal in wanted)

    def parts(self, stages: Iterable[str]) -> dict[str, Any]:
        """The parts that ``stages`` use, by config group."""
        goals = set(stages)
        tuned = goals & {"train", "evaluate"}
        parts: dict[str, Any] = {"data": self.source} if goals - {"report"} else {}
        if goals & {"features", "select"} or tuned:
            parts |= {name: part for name, part in self.models.items() if self.asks(name)}
            parts |= {"targets": self.targets} if targets_of(self.all_needs) else {}
        rated = any(isinstance(need, Difficulty) for need in self.all_needs)
        if tuned or rated or self.trains_first:
            parts |= {"target": self.target}
        parts |= {"train": self.recipe} if self.finetunes(goals) else {}
        parts |= {"eval": self.suite} if "evaluate" in goals else {}
        return parts

    def in_store(self, model: ModelSource) -> bool:
        """Whether ``model`` is an artifact already, so that its files are no longer needed."""
        try:
            return self.store.find(model.step()) is not None
        except UserError:
            return False

    def finetunes(self, stages: Iterable[str]) -> bool:
        """Whether ``stages`` finetune the target by the recipe, be it for a selection."""
        goals = set(stages)
        return "train" in goals or bool(goals & {"select", "evaluate"} and self.trains_first)

    @cached_property
    def all_needs(self) -> list[Need]:
        """Those of the whole family; known without the data."""
        return [need for method in self.methods for need in method.needs()]

    @cached_property
    def methods(self) -> list[Method]:
        """The method, those whose subsets it looks at, and so on; known without the data."""
        return list(_looked_at(self.method))

    @property
    def trains_first(self) -> bool:
        """Whether rows are selected by what a finetuned target gives; known without the data."""
        asked = (each for need in self.all_needs for each in (need, *read_by(need)))
        return any(isinstance(each, TunedSignal | WarmUp | AdaptedSignal) for each in asked)


def _looked_at(method: Method) -> Iterator[Method]:
    """``method``, those whose subsets it looks at, and so on."""
    yield method
    for need in method.needs():
        for subset in subsets_of(need):
            yield from _looked_at(subset.method)


def targets_of(needs: Iterable[Need]) -> list[Targets]:
    """Those of ``needs`` that are of target rows."""
    return [need for need in needs if isinstance(need, Targets)]
