"""Select a subset, finetune on it, evaluate it, compare: ``python run.py method=... data=...``.

Compose -> plan -> execute. The only file that knows Hydra: everything below gets plain objects.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from coincide.checks.needs import refuse_unmet
from coincide.config import (
    MODEL_GROUPS,
    FeaturePass,
    HealthLimits,
    Root,
    check_command,
    check_model_names,
    check_name,
    check_stages,
)
from coincide.experiment import Experiment
from coincide.schema import UserError
from coincide.selection.budget import check
from coincide.store import Store
from coincide.terminal.inert import guard_terminal
from eval import interface as evaluation
from launch.commands import COMMANDS
from launch.compositions import Compositions
from launch.execute import Executor, Launcher
from launch.frozen import FrozenCommand, frozen_command, read, what_runs
from launch.jobs import Job, with_stages, without_duplicates
from launch.local import Local
from launch.own import with_own
from launch.references import ledger_config
from launch.status import show
from launch.sweep import open_sweep
from launch.targets import check_hydra, check_targets, make
from launch.words import literal_words
from track.commands import DASHBOARD
from track.live import Live
from track.settings import Logger, group_of
from train import interface as finetuning

CONF = Path(__file__).resolve().parent / "conf"
GROUPS = ("data", "method", *MODEL_GROUPS, "target", "train", "eval")
MULTIRUN = ("-m", "--multirun")
ASKING = (
    "--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--resolve", "--package", "-p",
    "--info", "-i", "--shell-completion", "-sc",
)  # fmt: skip
"""Flags of Hydra that print something and run nothing."""
ConfigStore.instance().store(name="root", node=Root)


# --- compose ----------------------------------------------------------------------------------


def compose_all(words: Sequence[str]) -> list[Job]:
    """Compose and check every run of the command line before the first one starts."""
    overrides = [word for word in words if word not in MULTIRUN]
    overrides = literal_words(overrides, multirun=len(overrides) < len(words))
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        known = Compositions(_compose, CONF)
        batches = _split(overrides, known, multirun=len(overrides) < len(words))
        jobs = [make_job(compose_run(batch, known), batch, group_of(words)) for batch in batches]
    for job in jobs:
        job.experiment.siblings = [other.experiment for other in jobs]
    return jobs


def compose_run(words: Sequence[str], known: Compositions | None = None) -> DictConfig:
    """The configuration of one run; a method that names another (``method.of``) holds it whole,
    as ``method.other``. Inside ``hydra.initialize_config_dir``.

    ``known``: what was composed for other runs. Raises UserError if that method follows another
    itself.
    """
    known = known or Compositions(_compose, CONF)
    cfg = known.configuration(with_own(words, CONF))
    if "of" in (cfg.method or {}) and cfg.method.get("other") is None:
        other = _method_file(str(cfg.method.of), words, known)
        if "of" in other:
            raise UserError(
                f"method.of={cfg.method.of!r} is a method that follows another itself: name that "
                f"other one, e.g. method.of={other.of}."
            )
        settings = cfg.method.get("settings") or {}
        OmegaConf.update(cfg, "method.other", OmegaConf.merge(other, settings), force_add=True)
    return cfg


def _method_file(name: str, words: Sequence[str], known: Compositions) -> DictConfig:
    """``conf/method/<name>.yaml``, its interpolations left to the whole configuration."""
    search = [word for word in words if word.startswith("hydra.searchpath=")]
    choices = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
    if re.fullmatch(r"[\w.-]+", name):
        with suppress(UserError):
            found = known.configuration([*search, f"method={name}"]).method
            return DictConfig(OmegaConf.to_container(found, resolve=False))
    near = difflib.get_close_matches(name, choices, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise UserError(f"method.of={name!r}: the choices are {', '.join(choices)}.{hint}")


def make_job(cfg: DictConfig, words: Sequence[str], group: str = "") -> Job:
    """Check ``cfg`` and make its parts; refuses what can be refused without looking at files.

    ``group``: name of the sweep that it belongs to.
    """
    for group in (*GROUPS, "logger"):
        _check_chosen(cfg, group)
    config = plain(cfg)
    check_model_names(config["models"])
    check_targets(config, CONF)
    check(cfg.budget)
    check_stages(list(cfg.stages))
    check_command(cfg.command)
    if isinstance(cfg.seed, bool) or cfg.seed < 0:
        raise UserError(f"seed={cfg.seed}: expected an int >= 0.")
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise UserError(f"these values are needed and not given: {', '.join(missing)}.")
    parts = {name: build(cfg, name) for name in GROUPS}
    for name, part in parts.items():
        if name != "train":  # a recipe has none
            check_name(name, part.name)
    models = build(cfg, "models")
    for name, model in models.items():
        check_name(f"models.{name}", model.name)
    targets = None if cfg.targets is None else build(cfg, "targets")
    logger: Logger = build(cfg, "logger")
    experiment = Experiment(
        store=Store(Path(cfg.paths.store)),
        source=parts["data"],
        recipe=parts["train"],
        suite=parts["eval"],
        method=parts["method"],
        target=parts["target"],
        models={name: parts[name] for name in MODEL_GROUPS} | models,
        budget=cfg.budget,
        seed=cfg.seed,
        finetuning=finetuning,
        evaluation=evaluation,
        targets=targets,
        features=cast(FeaturePass, OmegaConf.to_object(cfg.features)),
        health=cast(HealthLimits, OmegaConf.to_object(cfg.health)),
        config={
            **what_runs(ledger_config(cfg)),
            "overrides": list(words),
            "group": logger.group or group,
        },
        words=tuple(words),
    )
    return Job(cfg, experiment)


def _check_chosen(cfg: DictConfig, group: str) -> None:
    """Raise UserError if nothing is chosen of a config group that no run can do without."""
    if not OmegaConf.is_dict(cfg[group]):
        choices = ", ".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))
        raise UserError(f"{group}: none is chosen. The choices are {choices}: {group}=CHOICE.")


def plain(cfg: Any) -> Any:
    """``cfg`` in plain containers, every interpolation resolved.

    Raises UserError for one that cannot be.
    """
    try:
        return OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else cfg
    except OmegaConfBaseException as error:
        raise UserError(str(error).strip()) from error


def build(cfg: DictConfig, group: str) -> Any:
    """The object that a config group stands for, made by its ``_target_`` where that may be.

    Raises UserError for values that the object refuses.
    """
    value = plain(cfg[group])
    check_targets({group: value}, CONF)
    try:
        return make(value)
    except UserError:
        raise
    except Exception as error:  # of a field's own check
        raise UserError(f"{group}: {type(error).__name__}: {error}") from error


def _split(overrides: list[str], known: Compositions, *, multirun: bool) -> list[list[str]]:
    """One list of overrides a run. A sweep comes from ``-m``, or from an experiment's
    ``hydra.mode: MULTIRUN`` with ``hydra.sweeper.params``; the command line wins over the latter.
    """
    parsed = OverridesParser.create().parse_overrides(overrides)
    fixed = [o.input_line or "" for o in parsed if not o.is_sweep_override()]
    settings = known.hydra(fixed)
    check_hydra(OmegaConf.to_container(settings, resolve=False))
    if not multirun and str(settings.mode) != "RunMode.MULTIRUN":
        return [overrides]
    given = {o.key_or_group for o in parsed}
    params = {k: v for k, v in (settings.sweeper.params or {}).items() if k not in given}
    swept = [*(f"{key}={values}" for key, values in params.items()), *overrides]
    batches = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(swept), None)
    return [list(batch) for batch in batches[0]]


def _compose(overrides: Sequence[str]) -> DictConfig:
    """With the node ``hydra``. Raises UserError for words that do not fit."""
    try:
        return hydra.compose("config", list(overrides), return_hydra_config=True)
    except (ConfigCompositionException, OmegaConfBaseException) as error:
        key = re.search(r"Could not override '([^']+)'", str(error))
        if key is None:
            raise UserError(str(error).strip()) from error
        raise UserError(_unknown_key(key[1], overrides)) from error
    except ValueError as error:  # of a group whose choice is no name
        raise UserError(
            f"{error}. To choose none of a group leave it out with ~, e.g. ~targets."
        ) from error


def _unknown_key(key: str, overrides: Sequence[str]) -> str:
    """What was got, what there is at that place, and the nearest name."""
    rest = [o for o in overrides if o.lstrip("+~").split("=")[0].split("@")[0] != key]
    node: Any = hydra.compose("config", rest)
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(node, parent) if parent else node
    choices = sorted(str(k) for k in node) if isinstance(node, DictConfig) else []
    near = difflib.get_close_matches(name, choices, n=1)
    hint = f" Did you mean {parent + '.' if parent else ''}{near[0]}?" if near else ""
    return f"unknown key {key!r}; the choices here are {', '.join(choices)}.{hint}"


# --- plan and execute -------------------------------------------------------------------------


def run(jobs: Sequence[Job]) -> int:
    """Hand the distinct runs to the launcher; what is missing is told before any of them starts."""
    refuse_unmet((job.experiment, job.stages) for job in jobs if not job.cfg.dry_run)
    _check_chosen(jobs[0].cfg, "launcher")
    launcher: Launcher = build(jobs[0].cfg, "launcher")
    return launcher.launch(without_duplicates(jobs), executor(jobs[0]))


def run_frozen(request: FrozenCommand) -> int:
    """Run what was frozen when it was submitted: whole runs, or the steps that are asked of it."""
    frozen = [read(path) for path in request.files]
    os.chdir(frozen[0].folder)
    jobs = [make_job(each.cfg, each.words, each.group) for each in frozen]
    mine = executor(jobs[0])
    if request.steps is not None:
        mine.steps(jobs, request.steps)
        return 0
    asked = [with_stages(job, *(request.stages or job.stages)) for job in jobs]
    code = Local().launch(without_duplicates(asked), mine)
    if request.stages == ("report",):
        mine.finish(jobs)
    return code


def executor(job: Job) -> Executor:
    """What carries out runs here; the logger of ``job`` is told what they make."""
    return Executor(Live(build(job.cfg, "logger"), Path(job.cfg.paths.ledger)))


def show_sweep(job: Job) -> int:
    """How the jobs of ``sweep=<id>`` stand, and the report over what is finished."""
    code = show(open_sweep(job.cfg.sweep, Path(job.cfg.paths.sweeps)))
    if "report" in job.stages:
        executor(job).run(with_stages(job, "report"))
    return code


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def hydras_own(cfg: DictConfig) -> None:
    """What Hydra answers by itself: ``--help``, ``--cfg job``, ``--info`` ... Nothing runs."""
    raise SystemExit(f"error: unknown flag among {' '.join(sys.argv[1:])}; see --help.")


def check_flags(flags: Sequence[str], words: Sequence[str]) -> None:
    """Refuse flags of Hydra that run something, and settings that name code for it to call."""
    for flag in flags:
        if flag.partition("=")[0] not in ASKING:
            raise UserError(
                f"unknown flag {flag!a}; the choices are {', '.join((*MULTIRUN, *ASKING))}. "
                "YAML of a folder of your own: 'hydra.searchpath=[file:///its/path]'."
            )
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        known = Compositions(_compose, CONF)
        _split([w for w in words if "=" in w and not w.startswith("-")], known, multirun=False)


def main() -> int:
    """Check every run of the command line, then do what ``command`` says."""
    words = sys.argv[1:]
    try:
        if flags := [word for word in words if word.startswith("-") and word not in MULTIRUN]:
            check_flags(flags, words)
            hydras_own()
            return 0
        if asked := frozen_command(words):
            return run_frozen(asked)
        jobs = compose_all(words)
        other = COMMANDS.get(jobs[0].cfg.command)
        if other is not None:
            return other([(job.experiment, job.stages) for job in jobs])
        dashboard = DASHBOARD.get(jobs[0].cfg.command)
        if dashboard is not None:
            ledger = Path(jobs[0].cfg.paths.ledger)
            return dashboard([job.experiment for job in jobs], build(jobs[0].cfg, "logger"), ledger)
        if jobs[0].cfg.sweep is not None:
            return show_sweep(jobs[0])
        return run(jobs)
    except (UserError, HydraException) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    guard_terminal()
    sys.exit(main())
