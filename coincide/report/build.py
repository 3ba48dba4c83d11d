"""The report stage: from a ledger to report.md, .csv, .tex, .json and one self-contained
report.html.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from coincide.ledger.evidence import ArtifactShelf
from coincide.ledger.result import Result
from coincide.report import formats
from coincide.report.decompose import decompose, noise_of
from coincide.report.exhibits import exhibit
from coincide.report.figure import Series, series
from coincide.report.page import page, view
from coincide.report.pairs import Pairs
from coincide.report.records import Panel
from coincide.report.scoring import STRICT
from coincide.report.signal import signal_to_noise
from coincide.report.summary import shown_panels
from coincide.store import Store
from coincide.system import disk
from coincide.system.files import remove_temporary, write_atomic
from coincide.system.side_by_side import map_processes


@dataclass(frozen=True)
class _Shown:
    """One panel, with all notes, and what the files say of it."""

    panel: Panel
    pairs: Pairs
    json: str
    view: Mapping[str, Any]


def build_report(
    results: Sequence[Result],
    folder: Path,
    store: Store | Path | None = None,
    scoring: str = STRICT,
    panels: Sequence[Panel] | None = None,
    processes: int = 1,
) -> dict[str, Path]:
    """Write the report of ``results`` into ``folder``; returns file ending -> path.

    ``store``: where subsets, samples and pictures are read; the page says what it lacks, e.g. for a
    result of another machine. Files are replaced atomically, and the same results in any order give
    the same bytes. ``scoring``: the reading by which ``results`` are scored
    (``coincide.report.scoring.by_scoring``); unless strict, the files are named
    ``report-<scoring>``. ``panels``: the ``shown_panels`` of ``results``, if they are made already.
    ``processes``: how many make panels side by side; the bytes do not depend on it. They import the
    main module of this one, so more than one is for a program whose main module may be imported.
    """
    found = list(shown_panels(results) if panels is None else panels)
    shelf = ArtifactShelf(store.root if isinstance(store, Store) else store, scoring)
    show = partial(_show, shelf=shelf, panels=len(found), places=series(found))
    shown = map_processes(show, list(enumerate(found, 1)), processes)
    found = [one.panel for one in shown]
    pairs = [one.pairs for one in shown]
    texts = {
        "md": formats.markdown(found, pairs),
        "csv": formats.comma_separated(found),
        "tex": formats.latex(found),
        "json": "[\n" + ",\n".join(one.json for one in shown) + "\n]\n",
        "html": page(found, [one.view for one in shown]),
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


def _show(numbered: tuple[int, Panel], shelf: ArtifactShelf, panels: int, places: Series) -> _Shown:
    """Panel ``numbered[1]`` of ``panels``; the number counts from 1."""
    number, panel = numbered
    own = replace(shelf)  # what one panel looked up is not held for the next
    exhibited = exhibit(panel, own, panels)
    parts = decompose(panel, own)
    panel = replace(panel, notes=(*panel.notes, *noise_of(parts)))
    record = formats.as_json(panel, exhibited.pairs)
    record["noise"] = [each.record() for each in parts]
    record["signal_to_noise"] = signal_to_noise(panel.rows)
    text = formats.json_text(record)
    return _Shown(panel, exhibited.pairs, text, view(panel, exhibited, number, places))


def _put(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
