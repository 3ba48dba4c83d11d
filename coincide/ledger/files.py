"""The ledger: one JSON file per result, in a folder that can be committed, copied and merged.

To merge two ledgers, copy the files of one into the other (or into a subfolder). A committed ledger
can be one compressed file (``coincide.ledger.packed``), which is read like a folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from coincide.ledger.packed import ENDING, unpack
from coincide.ledger.result import Cost, Result, Score
from coincide.schema import UserError
from coincide.system import disk
from coincide.system.files import canonical, digest_of, remove_temporary, write_json
from coincide.terminal.inert import printable
from coincide.terminal.redact import redact, values_to_hide, without

_TEXT = {"method", "variant", "data", "reference", "target", "suite", "commit", "created"}
_TABLES = {
    "seconds": float, "keys": str, "composition": int, "config": object, "versions": str,
    "hardware": object, "contents": str,
}  # fmt: skip
SCORES = ("scores", "lenient", "likelihood")
SEAL = "sha256"
"""Field of a file: the hash of its other fields. Absent in files of earlier versions."""
EDITED = (
    f"a value is not what was written (the hash in its field {SEAL!r} is another one; who changes "
    "a result on purpose removes that field)"
)
_OPTIONAL = {"commit", "created", "costs", "hardware", "contents", "aside", "lenient", "likelihood"}


def file_name(result: Result) -> str:
    """``<method>-<data>-<target>-b<budget>-s<seed>-<8 hex>.json``, the same on every machine.

    The hexadecimal digits are a hash of the result's identity and of its artifacts' keys (the ends
    of the folder names in ``result.keys``), independent of where the store lies; and of
    ``train.seed`` if it is set, since the same run is then part of another row of the table.
    """
    names = (result.method, result.variant, result.data, result.reference, result.target)
    identity = redact([*names, result.suite])  # as it is written
    keys = {kind: path.rstrip("/").rsplit("-", 1)[-1] for kind, path in result.keys.items()}
    training = result.config.get("train")
    trained = training.get("seed") if isinstance(training, Mapping) else None
    apart = [] if trained is None else [trained]
    content = canonical([*identity, result.k, result.seed, keys, *apart])
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    shown = "-".join(_slug(identity[i]) for i in (0, 2, 4))
    return f"{shown}-b{result.budget:.4g}-s{result.seed}-{digest}.json"


def write_result(folder: Path, result: Result) -> Path:
    """Write ``result`` to ``folder`` without secrets; a file of the same name is replaced.

    Its hash stands in the file, so that a figure that is changed later is noticed. Returns the
    path. Raises :class:`DiskError` if the disk is full or read-only.
    """
    for score in (*result.scores, *result.lenient, *result.likelihood):
        if score.value is not None and not math.isfinite(score.value):
            raise UserError(
                f"The score {score.benchmark}/{score.metric} of {result.method} is {score.value}; "
                "expected a finite number, or None with the reason in `why`."
            )
    path = folder / file_name(result)
    record = _redacted(_plain(result))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_temporary(folder)
        write_json(path, {**record, SEAL: digest_of(record)})
    except OSError as error:
        remedy = "Set paths.ledger to another folder: everything is in the store already."
        needed = len(canonical(record))
        raise disk.as_disk_error(
            error, folder, f"the ledger's {path.name}", remedy, needed=needed
        ) from error
    return path


def read_ledger(folder: Path | Sequence[Path]) -> list[Result]:
    """All results below ``folder``, or below several folders, ordered by file name.

    The same result in two places counts once. Different results with the same file name are all
    returned; the report uses the newest and says so. A missing folder is an empty ledger. Raises
    :class:`UserError`, naming file and field, for a malformed result; none is skipped silently.
    """
    found = [result for _, result in sorted(_all(folder), key=lambda pair: pair[0])]
    alike = Counter(map(_numbers, found))  # one result twice has its numbers twice
    seen: set[str] = set()
    kept = []
    for result in found:
        if alike[_numbers(result)] > 1:
            if (said := canonical([file_name(result), _redacted(_plain(result))])) in seen:
                continue
            seen.add(said)
        kept.append(result)
    return kept


def _numbers(result: Result) -> tuple[Any, ...]:
    """What no redaction changes, and two results seldom share."""
    return (result.seed, result.k, result.budget, *(score.value for score in result.scores))


def _all(folder: Path | Sequence[Path]) -> Iterator[tuple[tuple[str, str], Result]]:
    """Each result with its file name and place, by which they are sorted."""
    folders = [folder] if isinstance(folder, Path) else folder
    paths = {
        path.resolve(): path
        for each in folders
        for path in ([each] if each.is_file() else _files(each))
    }
    for path in paths.values():
        if not path.name.endswith(ENDING):
            yield (path.name, str(path)), read_result(path)
            continue
        for place, text in unpack(path):
            result = _checked(place, text)
            yield (file_name(result), place), result


def _files(folder: Path) -> Iterator[Path]:
    """Results and packed ledgers below ``folder``, except in hidden folders."""
    for pattern in ("*.json", f"*{ENDING}"):
        yield from (p for p in folder.rglob(pattern) if not _hidden(p.relative_to(folder)))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def read_result(path: Path) -> Result:
    """One result of the ledger. Raises :class:`UserError`, naming the field, if it is malformed."""
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no file")
        return _checked(str(path), path.read_bytes())
    except OSError as error:
        raise UserError(
            f"{path} cannot be read as a result of the ledger ({error.strerror or error}). Restore "
            "the file, or remove it and run its command again."
        ) from error


def _checked(place: str, text: str | bytes) -> Result:
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8")
        record = json.loads(decoded, parse_constant=_refuse_constant)
        seal = record.pop(SEAL, None) if isinstance(record, dict) else None
        result = _result(record)
        if seal not in (None, digest_of(record)):
            raise ValueError(EDITED)
        return result
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{place} is not a result of the ledger: {error}. "
            "Restore the file, or remove it and run its command again."
        ) from error


def presentable(result: Result, hidden: tuple[str, ...] | None = None) -> Result:
    """``result`` as it may be shown: without secrets, and without control characters in its
    texts. ``hidden``: :func:`values_to_hide`, which need be asked once for many results.
    """
    record = printable(_redacted(_plain(result), hidden))
    scores = {name: tuple(Score(**s) for s in record[name]) for name in SCORES}
    costs = tuple(Cost(**cost) for cost in record["costs"])
    aside = tuple(record["aside"])
    return type(result)(**{**record, **scores, "costs": costs, "aside": aside})


def _plain(result: Result) -> dict[str, Any]:
    """Field -> value, scores and costs as mappings; nothing is copied."""
    listed = {name: [vars(one) for one in getattr(result, name)] for name in (*SCORES, "costs")}
    return {one.name: getattr(result, one.name) for one in fields(result)} | listed


def _redacted(result: dict[str, Any], hidden: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Without credentials: fields of the configuration by name, other texts by their form.

    Names of files and folders are kept.
    """
    hidden = values_to_hide() if hidden is None else hidden
    free = {k: v for k, v in result.items() if k not in ("keys", "composition", "seconds")}
    named = {k: without(free.pop(k), hidden) for k in ("config", "versions")}
    return {**result, **named, **{k: _texts(v, hidden) for k, v in free.items()}}


def _texts(value: Any, hidden: tuple[str, ...]) -> Any:
    if isinstance(value, str):
        return without(value, hidden)
    if value is None or isinstance(value, int | float):  # before what takes longer to be told
        return value
    if isinstance(value, Mapping):
        return {k: _texts(v, hidden) for k, v in value.items()}
    return [_texts(item, hidden) for item in value] if isinstance(value, list | tuple) else value


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "_", text).strip("_.")[:40] or "unnamed"


def _refuse_constant(name: str) -> float:
    raise ValueError(f"it holds {name}; a missing value is null")


def _result(value: Any) -> Result:
    record = _record(value, Result, _OPTIONAL, "the result")
    for name in _TEXT & record.keys():
        _check(isinstance(record[name], str), name, "text", record[name])
    for name in ("k", "seed"):
        _check(type(record[name]) is int, name, "a whole number", record[name])
    _check(_is_number(record["budget"]), "budget", "a number", record["budget"])
    for name, kind in _TABLES.items():
        record[name] = _table(record.get(name, {}), kind, name)
    words = record.get("aside", [])
    listed = isinstance(words, list) and all(isinstance(word, str) for word in words)
    _check(listed, "aside", "a list of texts", words)
    record["aside"] = tuple(words)
    for name in ("costs", *SCORES):
        _check(isinstance(record.get(name, []), list), name, "a list", record.get(name))
    scores = {
        name: tuple(_score(item, f"{name}[{i}]") for i, item in enumerate(record.get(name, [])))
        for name in SCORES
    }
    costs = tuple(_cost(item, f"costs[{i}]") for i, item in enumerate(record.get("costs", [])))
    return Result(**{**record, **scores, "costs": costs})


def _score(value: Any, where: str) -> Score:
    texts = {"protocol", "why", "samples", "unit", "asked"}
    optional = {"stderr", "units", "readable", "lmms_eval", *texts}
    record = _record(value, Score, optional, where)
    for name in {"benchmark", "metric", *texts} & record.keys():
        _check(isinstance(record[name], str), f"{where}.{name}", "text", record[name])
    for name in {"value", "stderr", "readable", "lmms_eval"} & record.keys():
        good = record[name] is None or _is_number(record[name])
        _check(good, f"{where}.{name}", "a number or null", record[name])
    _check(type(record["n"]) is int, f"{where}.n", "a whole number", record["n"])
    units = record.get("units")
    _check(units is None or type(units) is int, f"{where}.units", "a whole number or null", units)
    return Score(**record)


def _cost(value: Any, where: str) -> Cost:
    record = _record(value, Cost, {"gpus"}, where)
    for name in ("stage", "folder"):
        _check(isinstance(record[name], str), f"{where}.{name}", "text", record[name])
    for name in ("seconds", "started"):
        _check(_is_number(record[name]), f"{where}.{name}", "a number", record[name])
    gpus = record.get("gpus", 0)
    _check(type(gpus) is int, f"{where}.gpus", "a whole number", gpus)
    return Cost(**record)


def _record(value: Any, kind: type, optional: set[str], where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is {_brief(value)}; expected an object")
    known = {f.name for f in fields(kind)}
    if unknown := sorted(value.keys() - known):
        raise ValueError(f"{where} has the unknown field {unknown[0]!r}; known: {sorted(known)}")
    if missing := sorted(known - optional - value.keys()):
        raise ValueError(f"{where} lacks the field {missing[0]!r}")
    return dict(value)


def _table(value: Any, kind: type, name: str) -> Mapping[str, Any]:
    _check(isinstance(value, dict), name, "an object", value)
    for key, item in value.items():
        good = _is_number(item) if kind is float else isinstance(item, kind)
        _check(
            good,
            f"{name}.{key}",
            {float: "a number", int: "a whole number"}.get(kind, "text"),
            item,
        )
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check(good: bool, where: str, expected: str, got: Any) -> None:
    if not good:
        raise ValueError(f"{where} is {_brief(got)}; expected {expected}")


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
