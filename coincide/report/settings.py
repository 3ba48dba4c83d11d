"""What of a run's configuration makes it another experiment, and how a table names it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from coincide.files import canonical
from coincide.schema import Result

COMPARED = ("data", "method", "reference", "target", "train", "eval")
"""Config groups that can change an answer; budget and seed are columns of their own."""
WHOLE = ("data", "target", "train", "eval")
"""Those among them in which a full-data run must agree with the runs it is the 100 % of."""
NEUTRAL = frozenset(
    "seed name variant projection _target_ device threads workers batch_size "  # of any group
    "micro_batch gradient_checkpointing zero_stage processes nodes timeout save_every "  # of train
    "chance range".split()  # of a benchmark: how a score is read
)
"""Fields that name a thing (the variant, with the projection, is a column of its own), or change
only the speed."""
PLACES = frozenset(
    "data.annotations data.images data.root data.downloads data.clusters data.expect "
    "data.lost_at_most reference.adapter reference.remedy eval.mirror eval.judge.url "
    "eval.judge.key_env eval.judge.tries eval.judge.wait method.depth".split()
)
"""Where things lie on this machine, what is refused there, and the number of clusters, which the
method that clusters has too."""

Setting = Mapping[str, Any]
_UNSET: tuple[Any, ...] = (None, [], ())


def setting(result: Result) -> Setting:
    """Dotted field -> value of everything that could change the answer, budget and seed aside.

    The reference model's fields count only where the method used a reference model. The seed of a
    generated dataset counts: it is another dataset.
    """
    groups = [g for g in COMPARED if g != "reference" or result.reference]
    flat = {k: v for g in groups for k, v in _flat(result.config.get(g), g)}
    return {k: v for k, v in sorted(flat.items()) if _counts(k)}


def whole_part(fields: Setting) -> Setting:
    """The part of a setting in which a full-data run must agree."""
    return {k: v for k, v in fields.items() if k.split(".", 1)[0] in WHOLE}


def conflicts(ours: Setting, theirs: Setting) -> list[str]:
    """Fields that both have with different values: ``train.lr is 0.001, not 0.002``."""
    shared = [k for k in ours if k in theirs and canonical(ours[k]) != canonical(theirs[k])]
    return [f"{k} is {theirs[k]}, not {ours[k]}" for k in shared]


def short_names(settings: Sequence[Setting]) -> tuple[list[str], str]:
    """Per setting, the fields in which it differs from the others: ``temperature=0.2``.

    A field that is not set (null, an empty list) is not named: the others have what it lacks. Nor
    is the value that more than half of the different settings have, as in a sweep around one of
    them; which those are is the second answer, in the same form.
    """
    every = {canonical(fields): fields for fields in settings}.values()
    names = sorted({name for fields in every for name in fields})
    counts = {n: Counter(canonical(fields.get(n)) for fields in every) for n in names}
    varied = [n for n in names if len(counts[n]) > 1]
    usual = {n: v for n in varied for v, c in counts[n].items() if c > len(every) / 2}
    last = [name.rsplit(".", 1)[-1] for name in varied]
    shown = {n: end if last.count(end) == 1 else n for n, end in zip(varied, last, strict=True)}

    def said(fields: Setting, which: Sequence[str]) -> str:
        named = [n for n in which if fields.get(n) not in _UNSET]
        return ", ".join(f"{shown[n]}={_brief(fields[n])}" for n in named)

    rare = [
        said(fields, [n for n in varied if canonical(fields.get(n)) != usual.get(n)])
        for fields in settings
    ]
    return rare, said({n: json.loads(value) for n, value in usual.items()}, list(usual))


def flat(value: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted field -> value."""
    return {k: v for name, item in value.items() for k, v in _flat(item, name)}


def _counts(name: str) -> bool:
    return name == "data.seed" or (name not in PLACES and name.rsplit(".", 1)[-1] not in NEUTRAL)


def _flat(value: Any, prefix: str) -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}")
    elif value is not None or "." in prefix:
        yield prefix, value


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else canonical(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
