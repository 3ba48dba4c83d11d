"""One experiment: the parts that a configuration names, and the steps that they make together.

data, reference -> features -> subset -> adapter -> scores -> a result in the ledger
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from coincide.asked import Asked, targets_of
from coincide.config import FeaturePass, HealthLimits
from coincide.features.extract import Extraction, extraction
from coincide.ledger.identity import content_keys
from coincide.needs import subsets_of
from coincide.protocols import (
    EvalStage,
    TrainStage,
)
from coincide.schema import (
    AdaptedSignal,
    Clustering,
    DataSource,
    Difficulty,
    ModelSource,
    Need,
    Signal,
    SignalModel,
    SubsetOf,
    Targets,
    TunedSignal,
    UserError,
    WarmUp,
    signals_of,
)
from coincide.selection.budget import budget_of
from coincide.selection.pool import NeedSteps
from coincide.selection.scan import read_scan, scan_step
from coincide.selection.scoring import scores_step
from coincide.selection.stage import clusters_step, subset_step
from coincide.selection.tuned import (
    adapted_extraction,
    adapted_of,
    merged_target,
    tuned_extractions,
    warmup_steps,
)
from coincide.store import Step

LATE = (
    "others", "warmups", "extractions", "target_extractions", "clusterings", "difficulties",
    "tuned", "before", "scored", "subset", "adapter", "merged", "scores",
)  # fmt: skip
"""Steps of an experiment whose keys hold, or may hold, which rows are barred."""


@dataclass(kw_only=True)
class Experiment(Asked):
    """The parts of a composed configuration as objects; steps are made when they are first used."""

    budget: float | int
    seed: int
    finetuning: TrainStage
    evaluation: EvalStage
    features: FeaturePass = field(default_factory=FeaturePass)
    health: HealthLimits = field(default_factory=HealthLimits)
    config: Mapping[str, Any] = field(default_factory=dict)
    """The resolved configuration and the words of the command line, for the ledger."""
    words: tuple[str, ...] = ()
    """The overrides of the command line."""
    siblings: Sequence[Experiment] = ()
    """All experiments of this command, this one included: they share feature passes."""

    @property
    def reference(self) -> Any:
        """The image-text model whose signals most methods read, a :class:`ModelSource`."""
        return self.models["reference"]

    @cached_property
    def data(self) -> Step:
        """The step of the dataset."""
        return self.source.step()

    def data_of(self, source: DataSource) -> Step:
        """The step of the dataset, or of the target rows: made once, since it looks at every
        picture.
        """
        if source is self.source:
            return self.data
        return self.targets_data if source is self.targets else source.step()

    @cached_property
    def targets_data(self) -> Step:
        """The step of the target rows."""
        assert self.targets is not None
        return self.targets.step()

    @cached_property
    def needs(self) -> Sequence[Need]:
        """What the method asks for."""
        return self.method.needs()

    @cached_property
    def signals(self) -> list[Signal]:
        """The pool's signals that the method needs, directly or for a clustering etc., each
        once.
        """
        return list(dict.fromkeys(s for need in self.needs for s in signals_of(need)))

    @cached_property
    def extractions(self) -> dict[Signal, Extraction]:
        """Step and pass of each signal of the pool's rows."""
        return {signal: self._extraction(signal, self.source) for signal in self.signals}

    def _extraction(self, signal: Signal, source: DataSource) -> Extraction:
        """Step and pass of ``signal`` over ``source``; UserError where its model is not given."""
        if isinstance(signal, AdaptedSignal):
            scans = self._scans(self.target, source)
            return adapted_extraction(signal, self, self.warmups[signal.adapter], source, scans)
        model = self.models.get(signal.model)
        if model is None:
            raise UserError(
                f"method {self.method.name} reads the signal {signal.name} off the model "
                f"{signal.model!r}, and there is none: there are {', '.join(self.models)}. Set "
                f"models=CHOICE, a file of conf/models that gives models.{signal.model}."
            )
        data, scans = self.data_of(source), self._scans(model, source)
        return extraction(signal, model, source, self.features, scans, data)

    @cached_property
    def target_extractions(self) -> dict[Targets, Extraction]:
        """Step and pass of each signal of the target rows.

        UserError where ``targets`` is needed and not set.
        """
        needs = targets_of(self.needs)
        if needs and self.targets is None:
            raise UserError(
                f"method {self.method.name} looks at target rows, and none are given. Set targets="
                "messages or targets=llava_json with targets.annotations=FILE and targets.images="
                "FOLDER, or targets=benchmark, the dev split of a benchmark; with data=demo "
                "targets=demo."
            )
        over = self.targets
        return {n: self._extraction(n.signal, over) for n in needs if over is not None}

    def signal(self, signal: Signal) -> Step:
        """The step of ``signal`` over the pool's rows."""
        return self.extractions[signal].step

    def _scans(self, model: SignalModel, source: DataSource) -> tuple[Step, ...]:
        """The scan that must precede a pass of ``model`` over ``source``: rows its processor
        refuses.

        Empty for models whose processor cannot refuse a row.
        """
        if not isinstance(model, ModelSource) or model.template != "chat":
            return ()
        return (self._scan(model, model.max_length, source),)

    @cached_property
    def scan(self) -> Step:
        """The step that finds rows that the target cannot read or cannot learn anything from.

        The target's processor is enough for it. If that is not on this machine, only rows that no
        model could learn from.
        """
        files = self.target.processor()
        if files.there or self.in_store(self.target):
            longest = min(self.recipe.max_length, self.target.max_length)
            return self._scan(self.target, longest)
        absent = "; ".join(f"{r.name}: {r.found}" for r in files.requirements if not r.met)
        note = (
            f"The processor of {self.target.name}, which would train on the subset, is not here "
            f"({absent}): only rows that no model learns from are left out. With it, rows that it "
            "refuses or cuts off are not chosen either (python -m coincide.prefetch)."
        )
        return scan_step(self.source, self.data, model=None, max_length=0, note=note)

    def _scan(self, model: ModelSource, max_length: int, source: DataSource | None = None) -> Step:
        over = source or self.source
        return scan_step(over, self.data_of(over), model=model, max_length=max_length)

    @cached_property
    def barred(self) -> str:
        """Digest of the rows that the scan excludes; empty: none, or the scan is not built yet."""
        found = self.store.find(self.scan)
        return read_scan(self.store, self.scan).digest if found else ""

    def settle(self) -> bool:
        """Read the scan again after it was built; returns whether its result changes keys."""
        before = self.barred
        for name in ("barred", *LATE):
            self.__dict__.pop(name, None)
        return self.barred != before

    @cached_property
    def clusterings(self) -> dict[Clustering, Step]:
        """The step of each clustering that the method asks for."""
        needs = [n for n in self.needs if isinstance(n, Clustering)]
        return {need: clusters_step(need, self.signal(need.signal)) for need in needs}

    @cached_property
    def difficulties(self) -> dict[Difficulty, Step]:
        """The step of each difficulty (Self-Filter's stage 1) that the method asks for."""
        needs = [n for n in self.needs if isinstance(n, Difficulty)]
        return {
            need: self.finetuning.difficulty_step(
                need,
                [self.signal(signal) for signal in need.signals],
                model=self.target,
                base=self.target.step(),
                source=self.source,
                data=self.data,
                recipe=self.recipe,
                scan=self._scan(self.target, self.target.max_length),
            )
            for need in needs
        }

    @property
    def family(self) -> list[Experiment]:
        """This experiment, and those whose subsets it looks at, and so on."""
        return [self, *(each for other in self.others.values() for each in other.family)]

    @cached_property
    def others(self) -> dict[SubsetOf, Experiment]:
        """The experiments that make the subsets which the method looks at."""
        asked = dict.fromkeys(subset for need in self.needs for subset in subsets_of(need))
        return {
            need: replace(
                self,
                method=need.method,
                budget=budget_of(need, self.budget, self.source),
                seed=self.seed if need.seed is None else need.seed,
            )
            for need in asked
        }

    @cached_property
    def warmups(self) -> dict[WarmUp, Step]:
        """The step of each warm-up that the method or a signal of it asks for."""
        return warmup_steps(self)

    @property
    def adapted(self) -> list[Extraction]:
        """The signals of the whole family, of the pool's and of the target rows, that are read off
        a warmed-up target."""
        found = [each for e in self.family for each in adapted_of(e)]
        return list({each.step.key: each for each in found}.values())

    @cached_property
    def tuned(self) -> dict[TunedSignal, Extraction]:
        """Step and pass of each signal that is read off the target after a finetuning."""
        return tuned_extractions(self)

    @property
    def all_tuned(self) -> list[Extraction]:
        """Those of the whole family, and those of warmed-up targets."""
        found = [*(e for each in self.family for e in each.tuned.values()), *self.adapted]
        return list({each.step.key: each for each in found}.values())

    @cached_property
    def merged(self) -> Step:
        """The target with this run's adapter merged in."""
        return merged_target(self.target, self.adapter)

    @cached_property
    def before(self) -> NeedSteps:
        """The steps whose artifacts the method reads when it selects."""
        return NeedSteps(
            {signal: found.step for signal, found in self.extractions.items()},
            self.clusterings,
            self.difficulties,
            {need: found.step for need, found in self.target_extractions.items()},
            self.targets,
            {n: self.others[n].subset for n in self.needs if isinstance(n, SubsetOf)},
            {need: found.step for need, found in self.tuned.items()},
            {need: self.warmups[need] for need in self.needs if isinstance(need, WarmUp)},
        )

    @cached_property
    def scored(self) -> Step | None:
        """The step of the method's scores of all rows; None for a method without."""
        return scores_step(
            self.method,
            seed=self.seed,
            source=self.source,
            data=self.data,
            needs=self.before,
            scan=self.scan,
            barred=self.barred,
        )

    @cached_property
    def subset(self) -> Step:
        """The step that selects the rows."""
        return subset_step(
            self.method,
            budget=self.budget,
            seed=self.seed,
            source=self.source,
            data=self.data,
            needs=self.before,
            scored=self.scored,
            scan=self.scan,
            barred=self.barred,
            health=self.health,
        )

    @property
    def selecting(self) -> tuple[Step, ...]:
        """The steps of the select stage that precede the subset, in the order of their build."""
        others = self.others.values()
        learnt = {
            need.subset: self.others[need.subset]
            for need in self.tuned
            if not isinstance(need.signal, AdaptedSignal)
        }.values()
        found = (
            *(step for other in others for step in (*other.selecting, other.subset)),
            *(step for other in learnt for step in (other.adapter, other.merged)),
            *self.warmups.values(),
            *(each.step for each in self.tuned.values()),
            *(each.step for each in self.adapted),
            *self.clusterings.values(),
            *self.difficulties.values(),
            *((self.scored,) if self.scored else ()),
        )
        return tuple({step.key: step for step in found}.values())

    @cached_property
    def adapter(self) -> Step:
        """The step that finetunes the target on the subset."""
        return self.finetuning.train_step(
            self.recipe,
            model=self.target,
            base=self.target.step(),
            source=self.source,
            data=self.data,
            subset=self.subset,
            seed=self.seed,
        )

    @cached_property
    def scores(self) -> list[Step]:
        """One step for each benchmark of the suite."""
        return self.evaluation.eval_steps(
            self.suite,
            model=self.target,
            base=self.target.step(),
            adapter=self.adapter,
            data=self.data,
        )

    @property
    def wanted(self) -> list[Extraction]:
        """The signals that this run computes, of the pool's and of the target rows, and those of
        the runs whose subsets it looks at.
        """
        both = [f for e in self.family for f in (e.extractions, e.target_extractions)]
        found = [
            each
            for one in both
            for each in one.values()
            if not isinstance(each.signal, AdaptedSignal)
        ]
        return list({each.step.key: each for each in found}.values())

    def contents(self) -> dict[str, str]:
        """Keys of data, target and the models that signals come from (``Result.contents``), and of
        the target rows where the method looks at them."""
        models = {name: part.step() for name, part in self.models.items() if self.asks(name)}
        if self.targets is not None and any(each.target_extractions for each in self.family):
            models["targets"] = self.targets_data
        return content_keys(self.method, data=self.data, target=self.target.step(), **models)
