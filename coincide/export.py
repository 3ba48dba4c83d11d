"""``python -m coincide.export SUBSET --as FORM --out FILE``: a subset for another trainer.

SUBSET is a subset artifact or a result of the ledger. Forms:

- ``llamafactory``, ``swift``, ``trl``, ``axolotl``: the data as that trainer reads it, beside it
  the settings that it needs, and three lines that start training, also in ``FILE.FORM.sh``
- ``parts``: messages whose contents are all lists of parts; TRL, ms-swift and axolotl read it alike
- ``messages``: OpenAI roles, ``{"messages": [...], "images": [...]}``
- ``sharegpt``: the file that ``llamafactory`` writes, alone
- ``llava``: LLaVA json, each row as the annotation file has it where nothing needs a change
- ``ids``: the rows' ids, a JSON list; not unique in LLaVA-665K
- ``npy``: sorted row indices int64 [k] of the annotation file, as the published code indexes it
- ``table``: all rows of the dataset with score, cluster, rank and ``selected``, as parquet
- ``parquet``: the rows with their pictures inside, as ``data=parquet`` and ``datasets`` read them

Ids are strings; turns are those that the product trains on; system prompts stay. ``--images`` says
how pictures are named: relative to the image root, absolute, or copied next to FILE. Pictures that
lie inside Parquet shards are written as files next to FILE, those of the subset alone. What a
reader would take otherwise is counted and told. ``method=from_file`` reads every form back but
``parquet``.
docs/CLIENTS.md has what each trainer makes of each form.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from coincide.data.export_pictures import PictureFiles, shows_cells, write_parquet
from coincide.data.exports import FORMS, Misread, as_json_line, read_rows, words_for_media
from coincide.data.listing import missing_files
from coincide.data.report import FIRST
from coincide.data.trainers import UNKNOWN_ROOT, Exported, write_beside
from coincide.ledger.evidence import ArtifactShelf
from coincide.ledger.files import read_result
from coincide.report.export_table import export_table, need
from coincide.schema import UserError
from coincide.store import check_path
from coincide.system.files import write_atomic, write_json, write_list
from coincide.terminal.inert import guard_terminal

CHOICES = (*FORMS, "ids", "npy", "table", "parquet")
IMAGES = ("relative", "absolute", "copy")
COPIED = "images"
"""Folder beside the file, for ``--images copy``."""


@dataclass(frozen=True)
class ExportSummary:
    """What was exported: number of rows, files, notes for the user, lines that start a training."""

    rows: int
    files: Sequence[Path]
    notes: Sequence[str] = ()
    lines: Sequence[str] = field(default=())


def subset_folder(path: Path, store: Path) -> Path:
    """The folder of the subset artifact: ``path`` itself, or the one that the result ``path``
    names.

    Raises UserError where ``path`` is neither, or the store does not hold it.
    """
    if path.is_dir():
        return path
    if path.suffix != ".json" or not path.is_file():
        raise UserError(
            f"{path}: expected a subset artifact (a folder of {store}/subset) or a result of the "
            "ledger (.json); there is no such file."
        )
    found = ArtifactShelf(store).subset(read_result(path))
    if found is None:
        raise UserError(
            f"The subset of {path} is not in the store {store}. Name its store by --store, or run "
            "the command of the result up to select."
        )
    return found


def image_root(subset: Path, folder: Path, store: Path) -> Path | None:
    """The folder of the subset's images, as far as it is recorded; else None.

    The data artifact if it holds the images (``data=demo``), else the path in the result
    ``subset``.
    """
    shelf = ArtifactShelf(_store(folder, store))
    config = read_result(subset).config if subset.is_file() else {}
    return shelf.pictures(need(folder, "data", shelf), config)


def _store(folder: Path, store: Path) -> Path:
    """The store in which ``folder`` lies; ``store`` if it lies in none."""
    own = folder.absolute().parent
    return own.parent if own.name == "subset" else store


def export_subset(
    folder: Path, form: str, out: Path, *, images: str | None = None, root: Path | None = None
) -> ExportSummary:
    """Write the subset artifact in ``folder`` to ``out`` in ``form``, one of ``CHOICES`` but
    ``table``.

    ``images``: how paths are written (``relative``, ``absolute``, ``copy``), None: ``copy`` where
    pictures lie inside shards, else ``relative``; ``root``: the image folder, needed unless
    ``relative``. Raises :class:`UserError` if ``folder`` holds no subset, if
    the root is missing, and for ``ids`` if a row has none.
    """
    for name in ("rows.npy", "subset.json"):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is no subset: it has no {name}.")
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = np.load(folder / "rows.npy", allow_pickle=False)
    if form == "npy":
        write_atomic(out, lambda path: _copy(folder / "rows.npy", path))
        return ExportSummary(len(rows), [out])
    if form == "ids":
        return _write_ids(folder, out)
    images = _how(images, form, root, inside=shows_cells(folder / "subset.json"))
    if form == "parquet":
        assert root is not None
        count, lost = write_parquet(folder / "subset.json", root, out)
        return ExportSummary(count, [out], _lost(lost, root, "are null"))
    copies = PictureFiles(root, out.absolute().parent / COPIED) if root else None
    place, base = _place(images, root, out, copies)
    misread, names, media = Misread(form), set[str](), False

    def texts() -> Iterator[str]:
        nonlocal media
        for row in read_rows(folder / "subset.json"):
            misread.look(row)
            names.update(row.images)
            media = media or words_for_media(row)
            yield as_json_line(row, form, place)

    write_list(out, texts())
    copied = copies.missing if copies and images == "copy" else None
    lost = missing_files(root, names) if root and copied is None else copied or set()
    notes = [*misread.lines(), *_lost(lost, root, "readers stop at them")]
    files, lines = write_beside(form, Exported(out, base, media))
    if lines and base == UNKNOWN_ROOT and names:
        notes.append(f"{UNKNOWN_ROOT} stands for the image root; --image-root FOLDER fills it in")
    return ExportSummary(len(rows), [out, *files], notes, lines)


def _how(images: str | None, form: str, root: Path | None, *, inside: bool) -> str:
    """How pictures are named; ``inside``: whether some lie inside shards.

    Raises UserError for a way that readers of ``form`` cannot follow, or that needs the root.
    """
    if inside and images not in (None, "copy") and form not in ("llava", "parquet"):
        raise UserError(
            f"--images {images}: pictures of this subset lie inside Parquet shards, which no "
            f"reader of {form} opens. --images copy writes those of the subset as files; --as "
            "parquet keeps them inside."
        )
    how = images or ("copy" if inside else "relative")
    if (how != "relative" or form == "parquet") and root is None:
        raise UserError(
            f"--images {how}: expected --image-root FOLDER, what data.images of the run was; "
            "the subset does not record it."
        )
    return how


def _place(
    images: str, root: Path | None, out: Path, copies: PictureFiles | None
) -> tuple[Callable[[str], str], str]:
    """A function that gives an image's path in the file, where it is copied to if asked for, and
    the folder the paths are relative to.
    """
    if images == "copy" and copies:
        return (lambda name: f"{COPIED}/{copies.place(name)}"), str(out.absolute().parent)
    if images == "absolute" and root is not None:
        return (lambda name: str(root.absolute() / name)), str(root.absolute())
    return (lambda name: name), UNKNOWN_ROOT if root is None else str(root.absolute())


def _lost(names: Collection[str], root: Path | None, what: str) -> list[str]:
    """A note on pictures that are not below ``root``, if there are any."""
    if not names:
        return []
    shown = ", ".join(map(ascii, sorted(names)[:FIRST])) + (", ..." * (len(names) > FIRST))
    return [f"{len(names):,} pictures are not below {root}, {what}: {shown}"]


def _write_ids(folder: Path, out: Path) -> ExportSummary:
    ids = json.loads((folder / "ids.json").read_text(encoding="utf-8"))
    nameless = [number for number, identity in enumerate(ids) if not identity]
    if nameless:
        shown = ", ".join(map(str, nameless[:FIRST]))
        raise UserError(
            f"{len(nameless):,} rows of {folder} have no id ({shown}, counted in the subset): ids "
            "cannot name them. Use --as npy, or a form with the rows themselves."
        )
    write_json(out, ids)
    twice = len(ids) - len(set(ids))
    notes = [f"{twice:,} ids stand more than once: --as npy names rows without doubt"]
    return ExportSummary(len(ids), [out], notes if twice else [])


def _copy(source: Path, path: Path) -> None:
    shutil.copyfile(source, path)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; exit status 2 when there is nothing to export."""
    parser = argparse.ArgumentParser(
        prog="python -m coincide.export", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("subset", type=Path, metavar="SUBSET")
    parser.add_argument("--as", dest="form", choices=CHOICES, required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--images", choices=IMAGES, help="how they are named")
    parser.add_argument("--image-root", type=Path, metavar="FOLDER", help="data.images of the run")
    parser.add_argument("--store", type=Path, default=Path("store"), help="where the artifacts are")
    given = parser.parse_args(words)
    try:
        done = _export(given)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{done.rows:,} examples as {given.form}: {given.out}")
    for path in done.files[1:]:
        print(f"  beside it: {path}")
    for note in done.notes:
        print(f"note: {note}")
    if done.lines:
        print("To start training:\n" + "\n".join(f"    {line}" for line in done.lines))
    return 0


def _export(given: argparse.Namespace) -> ExportSummary:
    if given.image_root is not None and not given.image_root.is_dir():
        raise UserError(f"--image-root {given.image_root}: no such folder.")
    folder = subset_folder(given.subset, given.store)
    for name in ("rows.npy", "ids.json", "subset.json", "facts.json"):
        check_path(folder / name)
    if given.form == "table":
        notes, count = export_table(folder, ArtifactShelf(_store(folder, given.store)), given.out)
        return ExportSummary(count, [given.out], notes)
    root = given.image_root or image_root(given.subset, folder, given.store)
    return export_subset(folder, given.form, given.out, images=given.images, root=root)


if __name__ == "__main__":
    guard_terminal()
    sys.exit(main())
