"""A frozen run: its resolved configuration in one YAML file, as it was when it was submitted.

Only its user may read the file, and it holds no credentials (``launch.references``). ``python
run.py frozen=<file>`` runs it, whatever ``conf/`` contains by then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from coincide.config import Root
from coincide.schema import UserError
from coincide.system.files import ours_alone, write_atomic
from coincide.terminal.redact import redact
from launch.jobs import Job
from launch.plan import goal_key
from launch.references import check_variables, frozen_config, variables
from launch.targets import check_targets, foreign_code

CONF = Path(__file__).resolve().parent.parent / "conf"
HERE_ONLY = ("launcher", "sweep", "dry_run")
"""Fields that say how this command runs, and not what it runs; not frozen."""


@dataclass(frozen=True)
class FrozenRun:
    """The content of a frozen file."""

    words: tuple[str, ...]
    """The overrides of the command line."""
    folder: Path
    """The folder in which the command ran; relative paths of the configuration refer to it."""
    cfg: DictConfig
    group: str
    """Name of the sweep, for the logger."""


def resolved_run(job: Job) -> dict[str, Any]:
    """Words and configuration of ``job`` with every interpolation resolved, without
    ``HERE_ONLY``.
    """
    config: Any = OmegaConf.to_container(job.cfg, resolve=True)
    return {
        "words": [w for w in job.experiment.words if w.split("=")[0].split(".")[0] != "launcher"],
        "config": what_runs(config),
    }


def what_runs(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` without ``HERE_ONLY``; nor ``models`` where there are none, as in runs of before
    they could be given.
    """
    left = {key: value for key, value in config.items() if key not in HERE_ONLY}
    return left if left.get("models") else {k: v for k, v in left.items() if k != "models"}


def freeze(job: Job, path: Path, folder: Path) -> None:
    """Write ``job`` to ``path``."""
    config = frozen_config(job.cfg, goal_key(job)[:8])
    content = {
        "words": [redact(word).replace("${", "\\${") for word in resolved_run(job)["words"]],
        "config": what_runs(config),
        "folder": str(folder),
        "group": job.experiment.config.get("group", ""),
        "variables": variables(job.cfg),
    }
    made = OmegaConf.create(content)
    write_atomic(path, lambda temporary: OmegaConf.save(made, temporary), mode=0o600)


def read(path: Path) -> FrozenRun:
    """The frozen run in ``path``. Raises UserError for any other file.

    The file may come from anyone, so everything that it would build is checked first
    (``launch.targets``); code of other folders (a benchmark's own tasks) is only accepted from a
    file of this user.
    """
    try:
        content: Any = OmegaConf.load(path)
        words, folder, config, group = (content[k] for k in ("words", "folder", "config", "group"))
        cfg = OmegaConf.merge(OmegaConf.structured(Root), config)
        check_variables(content.get("variables", {}))
        plain: Any = OmegaConf.to_container(cfg, resolve=True)
    except (OSError, TypeError, KeyError, ValueError, YAMLError, OmegaConfBaseException) as error:
        unset = "; set it as it was" if "Environment variable" in str(error) else ""
        raise UserError(
            f"frozen={path} cannot be read ({str(error).strip()}{unset}); expected a file of "
            "<sweeps>/<id>/runs."
        ) from error
    assert isinstance(cfg, DictConfig)
    check_targets(plain, CONF)
    foreign = [] if ours_alone(path) else list(foreign_code(plain))
    if foreign:
        raise UserError(
            f"frozen={path} names code of another folder, {foreign[0]!a}, and others than you "
            "could have written it. Look at both; a copy of the file that is yours alone "
            "(chmod go-w) is taken."
        )
    return FrozenRun(tuple(map(str, words)), Path(str(folder)), cfg, str(group))


@dataclass(frozen=True)
class FrozenCommand:
    """A command line that executes frozen runs."""

    files: tuple[Path, ...]
    """The frozen files."""
    steps: tuple[str, ...] | None = None
    """First 12 digits of the keys of the steps to build; None: whole runs."""
    stages: tuple[str, ...] | None = None
    """Stages to run instead of the frozen ones; None: the frozen ones."""


def frozen_command(words: Sequence[str]) -> FrozenCommand | None:
    """Parse ``frozen=<file>`` or ``frozen=[<file>,...]`` with ``steps=[...]`` or ``stages=[...]``.

    None if the words do not contain ``frozen=``; UserError for any other word beside it.
    """
    if not any(word.startswith("frozen=") for word in words):
        return None
    given: dict[str, tuple[str, ...]] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in ("frozen", "steps", "stages"):
            raise UserError(
                f"{word!r} beside frozen=: a frozen run takes no other words than steps=[...] and "
                "stages=[...]. Leave it out, or compose the run anew without frozen=."
            )
        given[name] = tuple(item for item in value.strip("[]").split(",") if item)
    files = tuple(Path(item).absolute() for item in given["frozen"])
    return FrozenCommand(files, given.get("steps"), given.get("stages"))
