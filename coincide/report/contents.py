"""Distinguish data and models that share a name, by content keys; infer keys of older results."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from coincide.ledger.result import Result
from coincide.report.records import Note
from coincide.report.settings import flatten, part_config
from coincide.system.files import canonical

SHORT = 6
"""Digits of a content key that a table shows."""
PANEL = ("data", "target")
"""Parts that all rows of a panel have in common."""
REMEDY = {"data": "data.name", "target": "target.label (or target.name)"}
_LOOSE = ("downloads", "scale", "clusters")
"""Fields of a part that do not depend on its content."""


def with_inferred_contents(results: Sequence[Result]) -> list[Result]:
    """The results; one without a recorded content key gets that of other results, if it is unique.

    Other results count if they have the same name and configuration of the part, paths included.
    """
    parts = sorted({part for result in results for part in result.contents})
    known: dict[str, set[str]] = defaultdict(set)
    for result in results:
        for part in result.contents:
            known[_made_from(result, part)].add(result.contents[part])
    found = []
    for result in results:
        lacking = [part for part in parts if part not in result.contents]
        only = {part: known[_made_from(result, part)] for part in lacking}
        more = {part: next(iter(one)) for part, one in only.items() if len(one) == 1}
        found.append(replace(result, contents={**result.contents, **more}) if more else result)
    return found


def panel_key(result: Result) -> tuple[str, ...]:
    """Names and content keys that all rows of a panel have in common."""
    named = (result.data, result.target, result.suite)
    return (*named, *(result.contents.get(part, "") for part in PANEL))


def row_content(result: Result) -> dict[str, str]:
    """The content keys in which rows of a panel may differ."""
    return {part: key for part, key in result.contents.items() if part not in PANEL}


def panel_suffixes(keys: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """Panel key -> what its title needs besides the names: ``data 1a2b3c``, or empty."""
    keys = list(keys)
    found = {}
    for key in keys:
        twins = [other for other in keys if other[:3] == key[:3]]
        said = []
        for place, part in enumerate(PANEL, 3):
            if len({other[place] for other in twins}) > 1:
                said.append(f"{part} {key[place][:SHORT] or 'not recorded'}")
        found[key] = ", ".join(said)
    return found


def sharing_notes(mine: Sequence[Result], everything: Sequence[Result]) -> list[Note]:
    """Notes that other results use this panel's data or target name for another content."""
    notes = []
    for part, name in zip(PANEL, ("data", "target"), strict=True):
        named = getattr(mine[0], name)
        others = [r for r in everything if getattr(r, name) == named]
        contents = {r.contents.get(part, "") for r in others}
        if len(contents) < 2:
            continue
        own = mine[0].contents.get(part, "")
        this = f"{own[:SHORT] or 'one that was not recorded'}{_from(mine, others, part)}"
        notes.append(
            Note(
                f"{len(contents)} {part} contents share the name {named}; this is {this}. They are "
                f"never one row, nor each other's 100 %. {REMEDY[part]} names them apart."
            )
        )
    return [*notes, *_unrecorded(mine)]


def _unrecorded(mine: Sequence[Result]) -> list[Note]:
    """Notes that results without a known content were made from other files."""
    without = [r for r in mine if "data" not in r.contents]
    files = sorted({str(f) for r in without if (f := _config(r, "data").get("annotations"))})
    if len(files) < 2:
        return []
    text = f"The content of {mine[0].data} was not recorded, and its runs name several files"
    return [Note(f"{text}: {', '.join(files)}. Where these differ, rows are of different data.")]


def _from(mine: Sequence[Result], others: Sequence[Result], part: str) -> str:
    """`` (annotations=a.json)``: fields in which configurations with the same name differ."""
    fields = [flatten(_config(result, part)) for result in others]
    ours = flatten(_config(mine[0], part))
    differing = sorted(
        name
        for name in ours
        if name not in _LOOSE and len({canonical(each.get(name)) for each in fields}) > 1
    )
    return f" ({', '.join(f'{name}={ours[name]}' for name in differing[:4])})" if differing else ""


def _made_from(result: Result, part: str) -> str:
    """Name and configuration of a part. Encoders, target rows and a method's content belong to the
    method."""
    own = {"data": result.data, "target": result.target, "reference": result.reference}
    config = {k: v for k, v in _config(result, part).items() if k not in _LOOSE}
    return canonical([part, own.get(part, result.method), config])


def _config(result: Result, part: str) -> Mapping[str, Any]:
    found = part_config(result, part)
    return found if isinstance(found, Mapping) else {}
