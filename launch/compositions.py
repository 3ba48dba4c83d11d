"""Compose the runs of one command line; those that differ in plain values are composed once.

Hydra takes half a second for a run of this project: it reads all files of the defaults list anew.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

Compose = Callable[[Sequence[str]], DictConfig]
"""Words -> configuration, with the node ``hydra``. Raises UserError for words that do not fit."""


class Compositions:
    """Configurations by their words, of files that do not change meanwhile."""

    def __init__(self, compose: Compose, conf: Path) -> None:
        """``compose`` is asked once for each choice of groups below the folder ``conf``."""
        self._compose, self._conf = compose, conf
        self._known: dict[tuple[str, ...], tuple[DictConfig, DictConfig]] = {}

    def hydra(self, words: Sequence[str]) -> DictConfig:
        """The node ``hydra``; ``words`` that only set values outside of it are not checked."""
        return self._whole(self._parted(words)[0])[1]

    def configuration(self, words: Sequence[str]) -> DictConfig:
        """What Hydra composes for ``words``, without the node ``hydra``; the caller's own copy.

        Raises what ``compose`` does.
        """
        shared, values = self._parted(words)
        try:
            found = copy.deepcopy(self._whole(shared)[0])
            for each in values:
                OmegaConf.update(found, each.key_or_group, each.value(), merge=True)
        except OmegaConfBaseException:  # of a value that does not fit: Hydra's own words for it
            found = copy.deepcopy(self._whole(tuple(words))[0])
        return found

    def _whole(self, words: tuple[str, ...]) -> tuple[DictConfig, DictConfig]:
        if words not in self._known:
            found = self._compose(words)
            settings = found.hydra
            with open_dict(found):
                del found["hydra"]
            self._known[words] = found, settings
        return self._known[words]

    def _parted(self, words: Sequence[str]) -> tuple[tuple[str, ...], list[Override]]:
        """Words that have to be composed, and those that can be set afterwards with the same
        effect: plain values at places that no other word but a choice of a group touches.
        """
        parsed = OverridesParser.create().parse_overrides(list(words))
        if any(each.key_or_group.split(".")[0] == "hydra" for each in parsed):
            return tuple(words), []  # one of them may bring groups from another folder
        rest = [each for each in parsed if not _is_plain(each) and not self._is_choice(each)]
        taken = [each.key_or_group for each in rest]
        values = [
            each
            for each in parsed
            if _is_plain(each)
            and not self._is_choice(each)
            and not any(_within(each.key_or_group, key) for key in taken)
        ]
        later = {id(each) for each in values}
        shared = [w for w, each in zip(words, parsed, strict=True) if id(each) not in later]
        return tuple(shared), values

    def _is_choice(self, word: Override) -> bool:
        """Whether it chooses a file of a group."""
        return (self._conf / word.key_or_group).is_dir() and not isinstance(word.value(), dict)


def _is_plain(word: Override) -> bool:
    """Whether it sets one number or text at a place that is there."""
    return (
        word.type == OverrideType.CHANGE
        and word.package is None
        and isinstance(word.value(), bool | int | float | str | None)
    )


def _within(one: str, other: str) -> bool:
    """Whether one of two places holds the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")
