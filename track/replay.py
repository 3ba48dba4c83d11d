"""Convert results of the ledger to wandb runs, whenever and wherever they were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coincide.ledger.evidence import ArtifactShelf
from coincide.ledger.files import file_name
from coincide.ledger.result import Result
from coincide.terminal.redact import redact
from track.compared import compare_with_ledger
from track.records import WandbRun, runs_of
from track.settings import is_launch_word


def ledger_runs(
    results: Sequence[Result], ledger: Sequence[Result], shelf: ArtifactShelf, *, group: str = ""
) -> list[WandbRun]:
    """The runs of ``results``, compared with all of ``ledger``; oldest first.

    If a result is in the ledger twice, the newer one counts, as in the report.
    """
    ordered = sorted(results, key=lambda r: (r.created, file_name(r)))
    newest = {file_name(result): result for result in ordered}
    among = compare_with_ledger(ledger)
    return [
        run
        for name, result in newest.items()
        for run in runs_of(result, shelf, group=group, compared=among[name])
    ]


def matches(result: Result, words: Sequence[str], config: Mapping[str, Any]) -> bool:
    """Whether ``result`` has the settings that ``words`` (``method=random``, ``train.lr=1e-4``)
    name.

    ``config``: the configuration composed from the words. Words about where and how to run are
    ignored.
    """
    names = (
        word.lstrip("+~").split("=", 1)[0].split("@")[0]
        for word in words
        if not is_launch_word(word)
    )
    return all(_same(_at(result.config, n), redact(_at(config, n))) for n in names)


def _at(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def _same(got: Any, wanted: Any) -> bool:
    """Whether two settings agree.

    Config groups are compared by what they make, not by their fields.
    """
    if isinstance(wanted, Mapping):
        telling = [key for key in ("_target_", "name") if key in wanted]
        return isinstance(got, Mapping) and all(got.get(key) == wanted[key] for key in telling)
    return wanted is None or got == wanted
