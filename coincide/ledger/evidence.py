"""Read what the artifacts behind a result still contain: rows, samples, clusters.

A ledger may come from another machine, so a look-up may find nothing, and names in the ledger are
not trusted: nothing outside the store is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from coincide.store import Artifact, DamagedArtifact, find_recorded, open_artifact

if TYPE_CHECKING:
    import numpy as np

    from coincide.ledger.result import Result

STRICT, LENIENT = "strict", "lenient"
"""Readings of the replies."""
LIKELIHOOD = "likelihood"
"""Samples scored by the likelihood of the right answer (``likelihoods``)."""
_NAME = re.compile(r"[\w.,+=@-]+")
_LARGE = 1 << 26
"""Bytes of a file of samples that are parsed at once."""
NUMBERS = ("score", "num", "den", "lenient", "lenient_num", "lenient_den", "nats", "margin")
"""Fields of a sample that are numbers."""
TEXTS = ("stratum", "unit")
"""Fields of a sample that are texts and read as columns."""
_NUMBER, _TEXT = (int, float, type(None)), (str, type(None))
_SMALL = 1 << 16
"""Bytes of one that is parsed line by line, for which Arrow needs four times as long."""
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class ArtifactShelf:
    """Finds artifacts in a store, which may lack any of them; ``root`` None: there is no store."""

    root: Path | None
    scoring: str = STRICT
    """The reading of the replies by which samples are scored."""
    reader: str = "report"
    """Who says on the terminal that something damaged is left out."""
    _told: set[str] = field(default_factory=set, compare=False)
    _kept: dict[str, Any] = field(default_factory=dict, init=False, compare=False)
    """What was found already; a copy (``dataclasses.replace``) begins with nothing."""

    def folder(self, recorded: str) -> Path | None:
        """The artifact recorded as ``<kind>/<name>-<hex>``, found by its key alone.

        None if not there.
        """
        parts = [part for part in recorded.split("/") if part][-2:]
        if self.root is None or len(parts) < 2 or not all(map(_is_name, parts)):
            return None
        root = self.root
        return self._once(f"folder {recorded}", lambda: find_recorded(root, recorded))

    def found(self, recorded: Mapping[str, str]) -> dict[str, Path]:
        """Those of ``recorded`` (any name -> ``<kind>/<name>-<hex>``) that are there, as absolute
        folders.
        """
        folders = {name: self.folder(each) for name, each in recorded.items()}
        return {n: path.absolute() for n, path in folders.items() if path and self.manifest(path)}

    def manifest(self, folder: Path) -> Mapping[str, Any]:
        """The manifest of the artifact in ``folder``; empty if it is damaged."""
        artifact = self._artifact(folder)
        return artifact.manifest if artifact else {}

    def file(self, folder: Path, name: str) -> Path | None:
        """A file of the artifact in ``folder``; None if it is missing or damaged.

        Damaged files are left out, with a message on the terminal.
        """
        artifact = self._artifact(folder)
        if artifact is None:
            return None
        try:
            path = artifact.file(name)
        except DamagedArtifact as error:
            self._say(error)
            return None
        return path if path.is_file() else None

    def _artifact(self, folder: Path) -> Artifact | None:
        """The artifact in ``folder``; None, with a message, if its manifest is damaged."""
        return self._once(f"artifact {folder}", lambda: self._opened(folder))

    def _opened(self, folder: Path) -> Artifact | None:
        try:
            return open_artifact(folder)
        except DamagedArtifact as error:
            self._say(error)
            return None

    def _once(self, what: str, look: Callable[[], _Found]) -> _Found:
        found: Any = self._kept.get(what)
        if found is None and (found := look()) is not None:
            self._kept[what] = found
        return found

    def _say(self, error: DamagedArtifact) -> None:
        if str(error) not in self._told:
            self._told.add(str(error))
            print(f"{self.reader}: {error} It is left out.", flush=True)

    def need(self, folder: Path, kind: str) -> Path | None:
        """The first artifact of ``kind`` that the one in ``folder`` was made from.

        None if not there.
        """
        for place, name in sorted(self.manifest(folder).get("needs", {}).items()):
            if place.rsplit(".", 1)[-1] == kind:
                return self.folder(f"{kind}/{name}")
        return None

    def pictures(self, data: Path | None, config: Mapping[str, Any]) -> Path | None:
        """The image folder of the dataset: in its artifact ``data``, or where ``config``, the
        configuration of a run, has it; None if not there.
        """
        stated = config.get("data")
        named = stated.get("images") if isinstance(stated, Mapping) else None
        inside = [data / "images"] if data else []
        beside = [Path(named)] if isinstance(named, str) and named else []
        beside += [path.parent for path in beside if path.is_file()]  # a pool of one shard
        found = (path.absolute() for path in (*inside, *beside) if path.is_dir())
        return next(found, None)

    def subset(self, run: Result) -> Path | None:
        """Folder of the run's subset; None if not there."""
        return self.folder(str(run.keys.get("subset", "")))

    def rows(self, run: Result) -> np.ndarray | None:
        """Rows that the run was trained on, int64 ascending; None if not there."""
        folder = self.subset(run)
        path = self.file(folder, "rows.npy") if folder else None
        return array(path) if path else None

    def samples(self, run: Result, benchmark: str) -> Samples | None:
        """Samples of one benchmark of the run; None if not there."""
        folder = self.evaluation(run, benchmark)
        return self._once(f"samples {folder}", lambda: self._samples(folder)) if folder else None

    def _samples(self, folder: Path) -> Samples | None:
        path = self.file(folder, "samples.jsonl")
        alike: dict[tuple[str, str, int], np.ndarray]
        alike = self._once("columns that files have in common", dict)
        return Samples(path, self.scoring, alike) if path else None

    def evaluation(self, run: Result, benchmark: str) -> Path | None:
        """Folder of the evaluation of one benchmark of the run; None if not there."""
        named = [s.samples for s in run.scores if s.benchmark == benchmark and s.samples]
        others = [f for key, f in sorted(run.keys.items()) if key.startswith("eval.")]
        mine = [f for f in others if f.rsplit("/", 1)[-1].startswith(f"{benchmark}-")]
        for recorded in [*named[:1], *mine]:
            folder = self.folder(recorded)
            if folder and self.manifest(folder).get("config", {}).get("benchmark") == benchmark:
                return folder
        return None


def array(path: Path) -> np.ndarray | None:
    """The array in the ``.npy`` file ``path``; None if it is missing or damaged."""
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None


def _record(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_name(part: str) -> bool:
    return part not in (".", "..") and _NAME.fullmatch(part) is not None


@dataclass(frozen=True)
class Samples:
    """``samples.jsonl`` of one evaluation: numbers as columns, and texts of single samples."""

    path: Path
    scoring: str = STRICT
    alike: dict[tuple[str, str, int], np.ndarray] = field(default_factory=dict, compare=False)
    """Columns of other files: one with the same values is taken instead of a second."""

    @cached_property
    def numbers(self) -> Mapping[str, np.ndarray]:
        """Columns [n]: ``doc_id`` int64; ``score``, ``num``, ``den`` float64.

        ``stratum``, ``unit`` text. Samples without a score are left out. Samples with the same
        ``unit`` are resampled together; a sample without one has its doc_id there. Empty if the
        file cannot be read.
        """
        import numpy as np

        columns = _columns(self.path)
        if self.scoring == LENIENT:
            names = {"score": "lenient", "num": "lenient_num", "den": "lenient_den"}
            columns |= {name: columns[other] for name, other in names.items()}
        elif self.scoring == LIKELIHOOD:
            scored = ~np.isnan(columns["score"].astype(float))
            nothing = np.full(len(scored), np.nan)
            nats = np.where(scored, columns["nats"].astype(float), np.nan)
            likely = likelihoods(nats, columns["margin"].astype(float))
            columns |= {"score": likely, "num": nothing, "den": nothing}
            columns["stratum"] = np.full(len(likely), None)
        _, kept = np.unique(columns["doc_id"], return_index=True)
        kept = kept[~np.isnan(columns["score"][kept].astype(float))]
        columns = {name: values[kept] for name, values in columns.items()}
        alone = columns["doc_id"].astype(str)
        score = columns["score"].astype(float)
        num, den = columns["num"].astype(float), columns["den"].astype(float)
        found = {
            "doc_id": columns["doc_id"],
            "score": score,
            "num": np.where(np.isnan(num), score, num),
            "den": np.where(np.isnan(den), 1.0, den),
            "stratum": np.array([s or "" for s in columns["stratum"]], dtype=str),
            "unit": np.array(
                [u if u is not None else a for u, a in zip(columns["unit"], alone, strict=True)],
                dtype=str,
            ),
        }
        return {name: self._one(name, column) for name, column in found.items()}

    def _one(self, name: str, column: np.ndarray) -> np.ndarray:
        """``column``, or one with the same values of a file that was read before: hundreds of runs
        answered the same documents.
        """
        other = self.alike.setdefault((name, column.dtype.str, len(column)), column)
        return other if (other == column).all() else column

    def texts(self, documents: Sequence[int]) -> dict[int, Mapping[str, Any]]:
        """Document -> its whole record, for ``documents``."""
        wanted = set(documents)
        found: dict[int, Mapping[str, Any]] = {}
        with self.path.open(encoding="utf-8") as handle:
            for line in handle:
                if len(found) == len(wanted):
                    break
                number = re.search(r'"doc_id": ?(\d+)', line)
                if number is None or int(number[1]) not in wanted:
                    continue
                record = _record(line)
                if record.get("doc_id") in wanted:
                    found[record["doc_id"]] = record
        return found


def likelihoods(nats: np.ndarray, margin: np.ndarray) -> np.ndarray:
    """The likelihood of each sample's right answer, float64 [n], NaN where ``nats`` is.

    1 / (1 + exp(-margin)) where every sample with ``nats`` has a ``margin``, the probability of the
    right answer against the likeliest other; exp(-nats) elsewhere. Both float64 [n], in nats.
    """
    import numpy as np

    known = ~np.isnan(nats)
    if known.any() and not np.isnan(margin[known]).any():
        odds = np.exp(-np.abs(margin))  # never overflows
        return np.where(known, np.where(margin >= 0, 1.0, odds) / (1.0 + odds), np.nan)
    return np.exp(-nats)


def _columns(path: Path) -> dict[str, np.ndarray]:
    """The numbers of a JSON lines file as columns [n]; texts are skipped without parsing."""
    import pyarrow as pa
    from pyarrow import json as pa_json

    wanted = {"doc_id": pa.int64(), **dict.fromkeys(NUMBERS, pa.float64())}
    wanted |= dict.fromkeys(TEXTS, pa.string())
    schema = pa.schema(list(wanted.items()))
    size = path.stat().st_size
    try:
        if size <= _SMALL:
            return _columns_of(_records(path))
        table = pa_json.read_json(
            path,
            # a block is allocated whole, however small the file
            read_options=pa_json.ReadOptions(
                use_threads=size > _LARGE, block_size=min(_LARGE, size + 1)
            ),
            parse_options=pa_json.ParseOptions(
                explicit_schema=schema, unexpected_field_behavior="ignore"
            ),
        )
    except (ValueError, TypeError, OverflowError):  # empty: the benchmark was left out; or damaged
        table = schema.empty_table()
    return {name: table.column(name).to_numpy(zero_copy_only=False) for name in wanted}


def _records(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON lines file. Raises ValueError for what is none, or of another type."""
    texts = [text for text in path.read_text(encoding="utf-8").split("\n") if text.strip()]
    found = json.loads(f"[{','.join(texts)}]")  # one call: half the time of one a line
    if len(found) != len(texts) or not found or not all(map(_is_sample, found)):
        raise ValueError(f"{path}: empty, or a line is no sample")
    return found


def _is_sample(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and type(record.get("doc_id")) is int
        and all(type(record.get(name)) in _NUMBER for name in NUMBERS)
        and all(type(record.get(name)) in _TEXT for name in TEXTS)
    )


def _columns_of(records: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The columns of :func:`_columns`; a number that is missing is NaN, a text None."""
    import numpy as np

    kinds = {"doc_id": np.int64, **dict.fromkeys(NUMBERS, float), **dict.fromkeys(TEXTS, object)}
    return {
        name: np.array([record.get(name) for record in records], kind)
        for name, kind in kinds.items()
    }
