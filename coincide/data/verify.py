"""``python -m coincide.data.verify data=llava``: decode every image and report by source.

The report says for each source how many of its images are fine, were converted to RGB (and from
what), are missing or corrupt, and how many rows that affects. The policies decide what happens to
those rows: ``error`` stops, ``drop`` removes the row from the pool, ``blank`` replaces the image by
a blank one.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from coincide.data.check import STATES, Finding, check_images
from coincide.data.columns import shown, sources
from coincide.data.llava_json import LlavaJson
from coincide.data.prepare import refuse_absent
from coincide.data.report import DataReport
from coincide.schema import Dataset
from coincide.system.files import write_json
from coincide.terminal.inert import guard_terminal, inert
from coincide.terminal.program import hand_over


def verify(
    source: Any, folder: Path = Path("reports"), *, processes: int | None = None
) -> dict[str, Any]:
    """Print the table, write ``<folder>/verify_<name>.json`` and return its content.

    Raises :class:`UserError`, after writing the report, if a run with these policies would refuse
    the data.
    """
    if not isinstance(source, LlavaJson):
        print(f"data={source.name} is made by the run itself: there is nothing to verify.")
        return {}
    refuse_absent(source)
    dataset, _ = source.inspect({})
    names = list(shown(dataset.examples).texts())
    found = check_images(dataset.image_root, names, processes=processes)
    corrupt = {name: f.detail for name, f in found.items() if f.status == "corrupt"}
    dataset, report = source.inspect(corrupt)
    result = summary(source, dataset, report, found)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"verify_{source.name}.json"
    write_json(path, result)
    _show(result, path)
    source.accept(report)
    return result


def summary(
    source: LlavaJson, dataset: Dataset, report: DataReport, found: Mapping[str, Finding]
) -> dict[str, Any]:
    """The report as JSON."""
    return {
        "data": source.name,
        "annotations": source.annotations,
        "images": source.images,
        "policies": asdict(source.policies),
        "rows": report.rows,
        "dropped": report.dropped,
        "blank": report.blank,
        "text_only": report.text_only,
        "duplicate_ids": report.duplicate_ids,
        "problems": report.as_json()["problems"],
        "sources": _by_source(dataset, found),
        "converted": dict(Counter(f.detail for f in found.values() if f.status == "converted")),
        "missing": [name for name, f in found.items() if f.status == "missing"],
        "corrupt": {name: f.detail for name, f in found.items() if f.status == "corrupt"},
    }


def _by_source(dataset: Dataset, found: Mapping[str, Finding]) -> dict[str, dict[str, int]]:
    """Source -> rows, distinct images by state, and rows with a missing or corrupt image."""
    pictures, where = shown(dataset.examples), sources(dataset.examples)
    states = np.array([STATES.index(found[name].status) for name in pictures.texts()], np.int64)
    row_of = pictures.row_of
    # each picture once for each source whose rows show it
    pairs = np.unique(np.stack([where.codes[row_of], pictures.codes]), axis=1)
    bad = np.isin(states[pictures.codes], [STATES.index(s) for s in ("missing", "corrupt")])
    touched = where.counts(np.unique(row_of[bad]))
    table = {}
    for name, rows in where.counts().items():
        its = states[pairs[1][pairs[0] == where.names.index(name)]]
        counts = np.bincount(its, minlength=len(STATES)).tolist()
        table[name] = {"rows": rows, **dict(zip(STATES, counts, strict=True)),
                       "rows_touched": touched.get(name, 0)}  # fmt: skip
    return table


def _show(result: Mapping[str, Any], path: Path) -> None:
    columns = ("rows", *STATES, "rows_touched")
    print(f"{'source':<32}" + "".join(f"{column:>13}" for column in columns))
    for where, counts in result["sources"].items():
        print(f"{inert(where)[:31]:<32}" + "".join(f"{counts[column]:>13,}" for column in columns))
    for what, count in sorted(result["converted"].items()):
        print(f"converted to RGB: {count:,} x {what}")
    for name, reason in list(result["corrupt"].items())[:10]:
        print(f"corrupt: {name!a}: {inert(reason)}")
    policies = ", ".join(f"{option}={choice}" for option, choice in result["policies"].items())
    print(
        f"With {policies}: {result['dropped']:,} rows dropped, {result['blank']:,} with a blank "
        f"picture. Report: {path}"
    )


def main() -> int:
    """Pass the words on to ``run.py``, which verifies the dataset."""
    return hand_over("verify", sys.argv[1:])


if __name__ == "__main__":
    guard_terminal()
    sys.exit(main())
