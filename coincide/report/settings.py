"""Which parts of a run's configuration make it another experiment, and how tables name them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from coincide.ledger.result import Result
from coincide.system.files import canonical, normalise_numbers

COMPARED = ("data", "method", "target", "train", "eval")
"""Config groups that can change an answer, besides the models that signals come from; budget and
seed have columns of their own."""
WHOLE = ("data", "target", "train", "eval")
"""Groups in which a full-data run must agree with the runs that are compared with it."""
BESIDE_CONTENT = ("template", "max_length", "dtype", "layers")
"""Fields of a model that change an answer but are not part of its content (``ModelSource``)."""
NEUTRAL = (
    "data.annotations data.images data.root data.downloads data.clusters data.expect "
    "data.lost_at_most data.scale reference.adapter reference.remedy reference.device "
    "reference.scale clip.device clip.scale target.device target.scale "
    "eval.mirror eval.engine eval.batch_tokens eval.batch_size eval.processes eval.device "
    "eval.threads eval.likelihood eval.judge.url "
    "eval.judge.key_env eval.judge.tries eval.judge.wait eval.judge.timeout "
    "eval.benchmarks.*.chance eval.benchmarks.*.range eval.benchmarks.*.documents "
    "eval.benchmarks.*.pictures "
    "eval.benchmarks.*.unit eval.least_signal"
).split()
"""Dotted fields that do not change an answer (places, speed, reading); with all fields below each.
Engine and batch in half precision are part of the protocol."""
UNDECLARED = (
    "method.depth train.micro_batch train.gradient_checkpointing train.zero_stage train.processes "
    "train.nodes train.timeout train.workers train.threads train.save_every"
).split()
"""The same for method and recipe, for results from before these declared it (``Result.aside``).
Nothing is to be added here."""

LATER = {"train.order": "seed", "train.average": 0.0, "train.linears": "all"}
"""Fields of recipes that came later, with what was done before: two results with other values never
share a row, nor is one 100 % of the other."""

OURS = ("coincide", "baselines")
"""Packages of this project, whose methods have unique names."""

Setting = Mapping[str, Any]
_UNSET: tuple[Any, ...] = (None, [], ())


def setting(result: Result) -> Setting:
    """Dotted field -> value of everything that can change the answer, except budget and seed.

    Fields of a model that signals come from only count if the method uses it. If the content of
    data or a model is recorded, its key replaces the fields that it was made from.
    """
    models = set(result.contents) - {*COMPARED, "reference", "targets"}
    groups = [*COMPARED, *(["reference"] if result.reference else []), *models]
    flat = {k: v for g in groups for k, v in _flat(part_config(result, g), g)}
    counted = {k: v for k, v in flat.items() if _counts(k, v, result)}
    later = {k: flat.get(k, v) for k, v in LATER.items()} if "train.lr" in counted else {}
    return dict(sorted({**counted, **later}.items()))


def identity(result: Result) -> str:
    """What runs have in common as seeds of one row: names, k, setting and contents.

    A field that is null counts as absent, as in results from before the field existed.
    """
    names = [result.method, result.variant, result.reference, result.k]
    fields = {k: v for k, v in setting(result).items() if v is not None}
    return canonical([*names, normalise_numbers(fields), dict(result.contents)])


def naming(fields: Setting, run: Result) -> Setting:
    """The fields by which labels name rows.

    With the path of a method whose file's content matters.
    """
    method = run.config.get("method") if "method" in run.contents else None
    paths = {} if not isinstance(method, Mapping) else {
        f"method.{name}": value
        for name, value in method.items()
        if f"method.{name}" in run.aside and isinstance(value, str)
    }  # fmt: skip
    return {**fields, **paths}


def whole_part(fields: Setting) -> Setting:
    """The part of a setting in which a full-data run must agree."""
    return {k: v for k, v in fields.items() if k.split(".", 1)[0] in WHOLE}


def conflicts(ours: Setting, theirs: Setting) -> list[str]:
    """Fields in which two settings differ, as text: ``train.lr is 0.001, not 0.002``."""
    shared = [k for k in ours if k in theirs and _said(ours[k]) != _said(theirs[k])]
    return [f"{k} is {theirs[k]}, not {ours[k]}" for k in shared]


def short_names(settings: Sequence[Setting]) -> tuple[list[str], str]:
    """Per setting, the fields in which it differs from the others: ``temperature=0.2``.

    Not named are fields that are unset (null, an empty list) and values that more than half of the
    settings share, as in a sweep around a default; these are returned as second value, in the same
    form.
    """
    # distinct settings, and how often each field has each value
    every = {_said(fields): fields for fields in settings}.values()
    names = sorted({name for fields in every for name in fields})
    counts = {n: Counter(_said(fields.get(n)) for fields in every) for n in names}
    # fields that vary, and the value that most settings have
    varied = [n for n in names if len(counts[n]) > 1]
    usual = {n: v for n in varied for v, c in counts[n].items() if c > len(every) / 2}
    # short names: the last part of the field, unless two fields share it
    last = [name.rsplit(".", 1)[-1] for name in varied]
    shown = {n: end if last.count(end) == 1 else n for n, end in zip(varied, last, strict=True)}

    def said(fields: Setting, which: Sequence[str]) -> str:
        named = [n for n in which if fields.get(n) not in _UNSET]
        return ", ".join(f"{shown[n]}={_brief(fields[n])}" for n in named)

    # what sets each setting apart, and separately what most have in common
    rare = [
        said(fields, [n for n in varied if _said(fields.get(n)) != usual.get(n)])
        for fields in settings
    ]
    return rare, said({n: json.loads(value) for n, value in usual.items()}, list(usual))


def part_config(result: Result, part: str) -> Any:
    """The configuration of a config group, or of the model of that name."""
    found = result.config.get(part)
    return (result.config.get("models") or {}).get(part) if found is None else found


def flatten(value: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mapping -> dotted field -> value."""
    return {k: v for name, item in value.items() for k, v in _flat(item, name)}


def _counts(name: str, value: Any, result: Result) -> bool:
    group, _, last = name.rpartition(".")
    part = name.split(".")[0]
    if last == "_target_":  # the class: of a method of one's own it tells two of one name apart
        return name == "method._target_" and str(value).split(".")[0] not in OURS
    if last == "name" and (group == part or group.startswith("eval.")):
        return False
    if part == "data" and "data" in result.contents:
        return False
    if part != "method" and part in result.contents:
        return last in BESIDE_CONTENT
    if name in ("method.variant", "method.projection"):  # a column of its own, where it is told
        told = f"{value:,}" if isinstance(value, int) else str(value)
        return value is not None and told not in result.variant
    if part in ("method", "train") and result.contents:
        return name not in result.aside
    return not _is_neutral(name)


@cache
def _is_neutral(name: str) -> bool:
    return any(_below(name, field) for field in (*NEUTRAL, *UNDECLARED))


def _below(name: str, field: str) -> bool:
    """Whether ``name`` is ``field`` or below it; ``*`` stands for one part of the name."""
    parts, wanted = name.split("."), field.split(".")
    return len(parts) >= len(wanted) and all(
        w in ("*", p) for p, w in zip(parts, wanted, strict=False)
    )


def _flat(value: Any, prefix: str) -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}")
    elif value is not None or "." in prefix:
        yield prefix, value


def _said(value: Any) -> str:
    """``value`` for a comparison, in which ``1`` and ``1.0`` are the same."""
    return canonical(normalise_numbers(value))


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else canonical(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
