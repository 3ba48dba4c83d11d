"""The report stage: from a ledger to report.md, .csv, .tex, .json and one self-contained
report.html.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from coincide.ledger.evidence import ArtifactShelf
from coincide.ledger.result import Result
from coincide.report import formats
from coincide.report.decompose import decompose, noise_of
from coincide.report.exhibits import exhibit_all
from coincide.report.page import page
from coincide.report.records import Panel
from coincide.report.scoring import STRICT
from coincide.report.signal import signal_to_noise
from coincide.report.summary import shown_panels
from coincide.store import Store
from coincide.system import disk
from coincide.system.files import remove_temporary, write_atomic


def build_report(
    results: Sequence[Result],
    folder: Path,
    store: Store | Path | None = None,
    scoring: str = STRICT,
    panels: Sequence[Panel] | None = None,
) -> dict[str, Path]:
    """Write the report of ``results`` into ``folder``; returns file ending -> path.

    ``store``: where subsets, samples and pictures are read; the page says what it lacks, e.g. for a
    result of another machine. Files are replaced atomically, and the same results in any order give
    the same bytes. ``scoring``: the reading by which ``results`` are scored
    (``coincide.report.scoring.by_scoring``); unless strict, the files are named
    ``report-<scoring>``. ``panels``: the ``shown_panels`` of ``results``, if they are made already.
    """
    found = list(shown_panels(results) if panels is None else panels)
    shelf = ArtifactShelf(store.root if isinstance(store, Store) else store, scoring)
    exhibits = exhibit_all(found, shelf)
    pairs = [exhibit.pairs for exhibit in exhibits]
    noise = [decompose(panel, shelf) for panel in found]
    found = [
        replace(panel, notes=(*panel.notes, *noise_of(parts)))
        for panel, parts in zip(found, noise, strict=True)
    ]
    behind = formats.as_json(found, pairs)
    for record, panel, parts in zip(behind, found, noise, strict=True):
        record["noise"] = [each.record() for each in parts]
        record["signal_to_noise"] = signal_to_noise(panel.rows)
    texts = {
        "md": formats.markdown(found, pairs),
        "csv": formats.comma_separated(found),
        "tex": formats.latex(found),
        "json": json.dumps(behind, indent=1, ensure_ascii=False) + "\n",
        "html": page(found, exhibits),
    }
    name = "report" if scoring == STRICT else f"report-{scoring}"
    paths = {ending: folder / f"{name}.{ending}" for ending in texts}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_temporary(folder)
        for ending, text in texts.items():
            write_atomic(paths[ending], lambda path, t=text: _put(path, t))  # type: ignore[misc]
    except OSError as error:
        remedy = "Set paths.reports (--out) to another folder: ledger and store are not touched."
        needed = sum(len(text.encode()) for text in texts.values())
        raise disk.as_disk_error(error, folder, "the report", remedy, needed=needed) from error
    return paths


def _put(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
