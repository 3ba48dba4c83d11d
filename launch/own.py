"""Recipe and suite that belong to a target, chosen where the command line names that target alone.

Hydra's defaults cannot say it: a dataset brings recipe, suite and target, and what a later group
brings goes before what an earlier one does. So ``conf/own.yaml`` says it, as words.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf


def with_own(words: Sequence[str], conf: Path) -> list[str]:
    """``words`` of one run, and for a target among them what ``conf/own.yaml`` says it brings.

    A group that the words choose, or that their experiment does, stays as it is.
    """
    parsed = OverridesParser.create().parse_overrides(list(words))
    chosen = {o.key_or_group: o.value() for o in parsed if not o.is_sweep_override()}
    file = conf / "own.yaml"
    target = chosen.get("target")
    if not isinstance(target, str) or not file.is_file():
        return list(words)
    brought = OmegaConf.to_container(OmegaConf.load(file)).get(target, {})  # type: ignore[union-attr]
    said = {*chosen, *_of_experiment(conf / "experiment" / f"{chosen.get('experiment')}.yaml")}
    return [*words, *(f"{group}={name}" for group, name in brought.items() if group not in said)]


def _of_experiment(file: Path) -> list[str]:
    """The groups that an experiment chooses."""
    if not file.is_file():
        return []
    entries = OmegaConf.to_container(OmegaConf.load(file)).get("defaults") or []  # type: ignore[union-attr]
    keys = (str(key) for entry in entries if isinstance(entry, dict) for key in entry)
    return [key.removeprefix("override ").strip().removeprefix("/") for key in keys]
