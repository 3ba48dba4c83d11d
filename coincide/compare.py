"""``python -m coincide.compare A B``: what two subsets have in common, and how their runs differ.

A and B are subset artifacts (folders of the store), results of the ledger (JSON) or index files
(.npy). Prints the overlap, rows by source, scores where both have them, and the fields of the
configuration that differ.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coincide.ledger.evidence import ArtifactShelf
from coincide.ledger.files import presentable, read_result
from coincide.ledger.identity import DIGITS, same_asked
from coincide.ledger.result import Result, Score
from coincide.report.notes import primary
from coincide.report.overlap import Overlap, expected_share, overlap
from coincide.report.settings import flatten
from coincide.schema import UserError
from coincide.store import MANIFEST, open_artifact
from coincide.terminal.inert import guard_terminal, printable
from coincide.terminal.redact import redact

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table


@dataclass(frozen=True)
class ComparedSubset:
    """One of the two subsets, with as much as is recorded of it."""

    name: str
    config: Mapping[str, Any]
    """Configuration of its run: dotted field -> value; empty for an index file."""
    rows: np.ndarray | None
    """Row indices, int64 ascending; None when the subset is not in the store."""
    composition: Mapping[str, int] = field(default_factory=dict)
    """Rows of the subset by source."""
    pool: Mapping[str, int] = field(default_factory=dict)
    """Rows of the whole dataset by source."""
    size: int | None = None
    """Rows of the whole dataset."""
    data: str = ""
    """The dataset, by name and content key where that is known: ``demo-1a2b3c4d5e6f``."""
    scores: Mapping[str, Score] = field(default_factory=dict)


def open_compared(path: Path, store: Path) -> ComparedSubset:
    """Read A or B; ``store`` is where the artifacts of a result are looked for.

    Raises :class:`UserError` unless ``path`` is an artifact, a result or an index file.
    """
    if path.is_dir():
        return _of_artifact(path)
    if path.suffix == ".npy" and path.is_file():
        return ComparedSubset(path.name, {}, _index(path))
    if path.suffix == ".json" and path.is_file():
        return _of_result(presentable(read_result(path)), ArtifactShelf(store), path)
    raise UserError(
        f"{path}: expected a subset artifact (a folder of {store}/subset), a result of the ledger "
        "(.json) or row indices (.npy); there is no such file."
    )


def _of_artifact(folder: Path) -> ComparedSubset:
    if not (folder / MANIFEST).is_file() or not (folder / "rows.npy").is_file():
        raise UserError(f"{folder}: no subset artifact; expected {MANIFEST} and rows.npy in it.")
    manifest = open_artifact(folder).check("rows.npy").manifest
    facts, needs = manifest.get("facts", {}), manifest.get("needs", {})
    return ComparedSubset(
        folder.name,
        printable(redact({**flatten(manifest.get("config", {})), **needs})),
        _index(folder / "rows.npy"),
        facts.get("composition", {}),
        facts.get("pool_composition", {}),
        facts.get("rows"),
        str(next((v for k, v in needs.items() if k.endswith(".data")), "")),
    )


def _of_result(result: Result, shelf: ArtifactShelf, path: Path) -> ComparedSubset:
    folder = shelf.subset(result)
    found = _of_artifact(folder) if folder else None
    return ComparedSubset(
        path.stem,
        flatten({k: v for k, v in result.config.items() if k not in _ASIDE}),
        found.rows if found else None,
        result.composition,
        found.pool if found else {},
        found.size if found else round(result.k / result.budget),
        found.data if found else _data(result),
        primary(result),
    )


def _data(result: Result) -> str:
    content = result.contents.get("data")
    return f"{result.data}-{content}" if content else ""


_ASIDE = ("overrides", "paths", "stages", "dry_run")


def _index(path: Path) -> np.ndarray:
    import numpy as np

    from coincide.data.entries import index_array

    return np.sort(index_array(path))


def compare(a: ComparedSubset, b: ComparedSubset) -> dict[str, Any]:
    """The comparison as JSON: overlap, sources, scores, differing fields.

    Where there is no overlap to compute, ``why`` gives the reason.
    """
    found, why = _overlap(a, b)
    both = [name for name in a.scores if name in b.scores]
    unlike = {n: w for n in both if (w := _unlike(a.scores[n], b.scores[n]))}
    return {
        "a": a.name,
        "b": b.name,
        "overlap": None if found is None else _spoken(found, a, b),
        "why": why,
        "sources": _sources(a, b, found),
        "scores": {n: [a.scores[n].value, b.scores[n].value] for n in both if n not in unlike},
        "scores_left_out": unlike,
        "config": {
            name: [a.config.get(name), b.config.get(name)]
            for name in sorted(a.config.keys() | b.config.keys())
            if a.config.get(name) != b.config.get(name)
        },
    }


def _overlap(a: ComparedSubset, b: ComparedSubset) -> tuple[Overlap | None, str]:
    if a.data and b.data and a.data[-DIGITS:] != b.data[-DIGITS:]:
        return None, f"they are of different data, {a.data} and {b.data}"
    if a.rows is None or b.rows is None:
        absent = " and ".join(side.name for side in (a, b) if side.rows is None)
        return None, f"the subset of {absent} is not in the store"
    return overlap(a.rows, b.rows), ""


def _spoken(found: Overlap, a: ComparedSubset, b: ComparedSubset) -> dict[str, float | int | None]:
    size = a.size or b.size
    return {
        "shared": found.shared,
        "only_a": found.first - found.shared,
        "only_b": found.second - found.shared,
        "jaccard": round(found.jaccard, 6),
        "share_of_smaller": round(found.share, 6),
        "share_at_random": size and round(expected_share(found.first, found.second, size), 6),
    }


def _sources(
    a: ComparedSubset, b: ComparedSubset, found: Overlap | None
) -> dict[str, list[int | None]]:
    """Source -> rows in A, in B and in the whole dataset."""
    whole = a.pool or b.pool
    return {
        source: [a.composition.get(source, 0), b.composition.get(source, 0), whole.get(source)]
        for source in sorted(a.composition.keys() | b.composition.keys() | whole.keys())
    }


def _unlike(a: Score, b: Score) -> str:
    """Why two scores of one benchmark cannot be compared; empty where they can."""
    for what in ("metric", "protocol"):
        if getattr(a, what) != getattr(b, what):
            return f"another {what}: {getattr(a, what) or 'none'} and {getattr(b, what) or 'none'}"
    same = same_asked(a.asked, b.asked)
    return "" if same else "other documents, prompts or scoring under the same protocol"


def tables(found: Mapping[str, Any]) -> list[Table | str]:
    """The comparison as rich tables and lines of text."""
    shown: list[Table | str] = [f"A  {found['a']}\nB  {found['b']}\n"]
    over = found["overlap"]
    if over is None:
        shown.append(f"No overlap to be had: {found['why']}.\n")
    else:
        chance = over["share_at_random"]
        random = "" if chance is None else f", at random {chance:.1%}"
        shown.append(
            f"{over['shared']:,} rows in both, {over['only_a']:,} in A alone, {over['only_b']:,} "
            f"in B alone\nJaccard {over['jaccard']:.3f}; {over['share_of_smaller']:.1%} of the "
            f"smaller is in the other{random}\n"
        )
    heads = {
        "sources": ("source", "A", "B", "dataset"),
        "scores": ("benchmark", "A", "B"),
        "config": ("configuration", "A", "B"),
    }
    for part, columns in heads.items():
        if found[part]:
            shown.append(_table(columns, found[part], numbers=part != "config"))
    shown += [f"{name} is left out: {why}." for name, why in found["scores_left_out"].items()]
    if not found["config"]:
        shown.append("The configurations are the same, or not known.")
    return shown


def _table(heads: Sequence[str], rows: Mapping[str, Sequence[Any]], *, numbers: bool) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(heads):
        table.add_column(name, justify="right" if i and numbers else "left", overflow="fold")
    for name, values in rows.items():
        table.add_row(Text(name), *(Text(_text(value, numbers)) for value in values))
    return table


def _text(value: Any, number: bool) -> str:
    if value is None:
        return "–"
    if number:
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; exit status 2 when A or B cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m coincide.compare", description=__doc__)
    parser.add_argument("a", type=Path, metavar="A")
    parser.add_argument("b", type=Path, metavar="B")
    parser.add_argument("--store", type=Path, default=Path("store"), help="where the artifacts are")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(words)
    try:
        found = compare(open_compared(given.a, given.store), open_compared(given.b, given.store))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if given.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return 0
    from rich.text import Text

    from coincide.terminal.inert import console

    for part in tables(found):
        console().print(Text(part) if isinstance(part, str) else part)
    return 0


if __name__ == "__main__":
    guard_terminal()
    sys.exit(main())
