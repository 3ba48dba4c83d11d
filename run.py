"""Select a subset, finetune on it, evaluate it, compare: ``python run.py method=... data=...``.

Compose -> plan -> execute. The only file that knows Hydra: everything below gets plain objects.
"""

from __future__ import annotations

import difflib
import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from coincide.budget import check, count
from coincide.config import FeaturePass, HealthLimits, Root, check_stages
from coincide.features.clip import ClipPass
from coincide.features.extract import OnePass, Pass, extract, signal_step
from coincide.features.signals import kind
from coincide.pipeline import Stage, execute, plan
from coincide.report.build import build_report
from coincide.report.ledger import read_ledger, write_result
from coincide.report.summary import summary_tables
from coincide.result import collect
from coincide.schema import (
    Clustering,
    Difficulty,
    Method,
    Result,
    Signal,
    UserError,
    signals_of,
)
from coincide.select import clusters_step, subset_step
from coincide.show import show_plan, show_report, show_result
from coincide.store import Step, Store
from eval.stage import eval_steps, evaluate
from train.self_filter import difficulty_step
from train.stage import train_step

CONF = Path(__file__).resolve().parent / "conf"
GROUPS = ("data", "method", "reference", "clip", "target", "train", "eval")
ConfigStore.instance().store(name="root", node=Root)

Jobs = list[DictConfig]
jobs: Jobs = []
"""The configs of all runs of this command: one, or those of the sweep."""
failed: list[str] = []


@dataclass
class Run:
    """One composed config and the objects and steps that it stands for."""

    cfg: DictConfig

    @cached_property
    def store(self) -> Store:
        return Store(Path(self.cfg.paths.store))

    @cached_property
    def source(self) -> Any:
        return build(self.cfg, "data")

    @cached_property
    def reference(self) -> Any:
        return build(self.cfg, "reference")

    @cached_property
    def clip(self) -> Any:
        return build(self.cfg, "clip")

    @cached_property
    def target(self) -> Any:
        return build(self.cfg, "target")

    @cached_property
    def method(self) -> Method:
        return build(self.cfg, "method")

    @cached_property
    def data(self) -> Step:
        return self.source.step()

    @cached_property
    def signals(self) -> list[Signal]:
        """The signals of the method, those under its other needs included, each once."""
        return list(dict.fromkeys(s for need in self.method.needs() for s in signals_of(need)))

    @cached_property
    def passes(self) -> dict[str, OnePass]:
        """One over the data by each model that signals come from."""
        options = cast(FeaturePass, OmegaConf.to_object(self.cfg.features))
        return {
            "reference": Pass(self.reference, self.source, self.reference.dtype, options),
            "clip": ClipPass(self.clip, self.source, options),
        }

    def signal(self, signal: Signal) -> Step:
        over = self.passes[kind(signal).model]
        return signal_step(signal, over, data=self.data, base=over.model.step())

    @cached_property
    def clusterings(self) -> dict[Clustering, Step]:
        needs = [n for n in self.method.needs() if isinstance(n, Clustering)]
        return {need: clusters_step(need, self.signal(need.signal)) for need in needs}

    @cached_property
    def difficulties(self) -> dict[Difficulty, Step]:
        needs = [n for n in self.method.needs() if isinstance(n, Difficulty)]
        return {
            need: difficulty_step(
                need,
                [self.signal(signal) for signal in need.signals],
                model=self.target,
                base=self.target.step(),
                source=self.source,
                data=self.data,
            )
            for need in needs
        }

    @cached_property
    def subset(self) -> Step:
        return subset_step(
            self.method,
            budget=self.cfg.budget,
            seed=self.cfg.seed,
            source=self.source,
            data=self.data,
            signals={signal: self.signal(signal) for signal in self.signals},
            clusterings=self.clusterings,
            difficulties=self.difficulties,
            health=cast(HealthLimits, OmegaConf.to_object(self.cfg.health)),
        )

    @cached_property
    def adapter(self) -> Step:
        return train_step(
            build(self.cfg, "train"),
            model=self.target,
            base=self.target.step(),
            source=self.source,
            data=self.data,
            subset=self.subset,
            seed=self.cfg.seed,
        )

    @cached_property
    def scores(self) -> list[Step]:
        return eval_steps(
            build(self.cfg, "eval"),
            model=self.target,
            base=self.target.step(),
            adapter=self.adapter,
            data=self.data,
        )

    @cached_property
    def stages(self) -> list[Stage]:
        """Data and models first, then the stages of the command line, in order."""
        signals = [self.signal(signal) for signal in self.signals]
        bases = [signal.needs[1] for signal in signals]
        prepare = {step.key: step for step in (self.data, *bases, self.target.step())}
        before = (*self.clusterings.values(), *self.difficulties.values())
        return [
            Stage("prepare", tuple(prepare.values())),
            Stage("features", tuple(signals), self._one_pass_each),
            Stage("select", (*before, self.subset)),
            Stage("train", (self.adapter,)),
            Stage("evaluate", tuple(self.scores), evaluate),
        ]

    def size(self) -> str:
        """How many examples the budget is, for the plan; exact once the data is there."""
        if self.method.fixed_size:
            return f"{self.method.name}, its own size"
        data = self.store.find(self.data)
        if data is None:
            return f"{self.method.name}, budget {self.cfg.budget} of {self.source.name}"
        rows = data.facts["rows"]
        k = count(self.cfg.budget, rows)
        return f"{self.method.name}, {k:,} of {rows:,} examples of {self.source.name}"

    def result(self) -> Result:
        """The line of the ledger, read off the artifacts."""
        return collect(
            self.store,
            features=[self.signal(signal) for signal in self.signals],
            before=[*self.clusterings.values(), *self.difficulties.values()],
            subset=self.subset,
            adapter=self.adapter,
            scores=self.scores,
            names={
                "method": self.method.name,
                "variant": getattr(self.method, "variant", ""),
                "data": self.source.name,
                "reference": self.reference.name if self._asks("reference") else "",
                "target": self.target.name,
                "suite": self.cfg.eval.name,
            },
            seed=self.cfg.seed,
            config={
                **OmegaConf.to_container(self.cfg, resolve=True),  # type: ignore[dict-item]
                "overrides": list(HydraConfig.get().overrides.task),
            },
        )

    def _asks(self, model: str) -> bool:
        return any(kind(signal).model == model for signal in self.signals)

    def _one_pass_each(self, store: Store, steps: Sequence[Step]) -> None:
        """Compute the signals of this run, and those that the rest of the sweep will ask for."""
        signals = {
            signal: self.signal(signal) for run in self._siblings() for signal in run.signals
        }
        missing = {s: step for s, step in signals.items() if not store.find(step)}
        for model, over in self.passes.items():
            if self._asks(model):
                extract(store, {s: missing[s] for s in missing if kind(s).model == model}, over)

    def _siblings(self) -> list[Run]:
        """The runs of this command on the same data, reference and CLIP, this one first."""
        mine = (self.cfg.data, self.cfg.reference, self.cfg.clip)
        return [self, *(Run(c) for c in jobs if (c.data, c.reference, c.clip) == mine)]


def build(cfg: DictConfig, group: str) -> Any:
    """The object that a config group stands for, made by its ``_target_``."""
    try:
        return instantiate(cfg[group], _convert_="all")
    except HydraException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise UserError(f"{group}: {error}") from error


def check_config(cfg: DictConfig) -> None:
    """Refuse what can be refused without data, model or store; each group checks its fields."""
    check(cfg.budget)
    check_stages(list(cfg.stages))
    if isinstance(cfg.seed, bool) or cfg.seed < 0:
        raise UserError(f"seed={cfg.seed}: expected an int >= 0.")
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise UserError(f"these values are needed and not given: {', '.join(missing)}.")
    for group in GROUPS:
        build(cfg, group)


def execute_run(cfg: DictConfig) -> None:
    """Plan, show the plan, and unless ``dry_run``, carry it out and report."""
    stages = check_stages(list(cfg.stages))
    run = Run(cfg)
    if stages != ("report",):
        lines = plan(run.stages, run.store, stages)
        show_plan(lines, run.store, run.size())
        if cfg.dry_run:
            return
        execute(lines, run.store)
    if "evaluate" in stages and not cfg.dry_run:
        result = run.result()
        path = write_result(Path(cfg.paths.ledger), result)
        show_result(result, path)
    if "report" in stages and not cfg.dry_run:
        results = read_ledger(Path(cfg.paths.ledger))
        show_report(summary_tables(results), build_report(results, Path(cfg.paths.reports)))


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def app(cfg: DictConfig) -> None:
    """One run. In a sweep a failed run is noted and the others go on."""
    hydra_config = HydraConfig.get()
    sweep = hydra_config.mode == RunMode.MULTIRUN
    words = " ".join(hydra_config.overrides.task) or "(defaults)"
    if sweep:
        print(f"\n=== run {hydra_config.job.num + 1} of {len(jobs)}: {words}", flush=True)
    try:
        execute_run(cfg)
    except UserError as error:
        failed.append(words)
        print(f"\nerror: {error}", file=sys.stderr)
        if not sweep:
            sys.exit(2)
    except Exception:
        if not sweep:
            raise
        traceback.print_exc()
        failed.append(words)


def compose_all(words: list[str]) -> Jobs:
    """Compose and check every run of the command line before the first one starts."""
    flags = {"-m", "--multirun"}
    overrides = [w for w in words if w not in flags]
    if any(w.startswith("-") for w in overrides):
        return []  # hydra's own flags (--help, --cfg ...): nothing runs
    parsed = OverridesParser.create().parse_overrides(overrides)
    batches = BasicSweeper.split_arguments(parsed, None)[0] if flags & set(words) else [overrides]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        composed = [_compose(list(batch)) for batch in batches]
    GlobalHydra.instance().clear()
    for cfg in composed:
        check_config(cfg)
    return composed


def _compose(overrides: list[str]) -> DictConfig:
    try:
        return hydra.compose("config", [o for o in overrides if not o.startswith("hydra")])
    except (ConfigCompositionException, OmegaConfBaseException) as error:
        key = re.search(r"Could not override '([^']+)'", str(error))
        if key is None:
            raise UserError(str(error).strip()) from error
        raise UserError(_unknown_key(key[1], overrides)) from error


def _unknown_key(key: str, overrides: list[str]) -> str:
    """What was got, what there is at that place, and the nearest name."""
    rest = [o for o in overrides if o.lstrip("+~").split("=")[0].split("@")[0] != key]
    node: Any = hydra.compose("config", [o for o in rest if not o.startswith("hydra")])
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(node, parent) if parent else node
    choices = sorted(str(k) for k in node) if isinstance(node, DictConfig) else []
    near = difflib.get_close_matches(name, choices, n=1)
    hint = f" Did you mean {parent + '.' if parent else ''}{near[0]}?" if near else ""
    return f"unknown key {key!r}; the choices here are {', '.join(choices)}.{hint}"


def main() -> None:
    """Check every run, then hand over to Hydra."""
    try:
        jobs.extend(compose_all(sys.argv[1:]))
    except (UserError, HydraException) as error:
        sys.exit(f"error: {error}")
    app()
    if failed:
        listed = "\n".join(f"  python run.py {words}" for words in failed)
        sys.exit(f"\n{len(failed)} of {len(jobs)} runs failed; to run them again:\n{listed}")


if __name__ == "__main__":
    main()
