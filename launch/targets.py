"""Which objects a configuration may build: those of the project's own groups, and the user's own.

A YAML may come from anyone: a frozen run on a shared disk, a file that was copied into ``conf``.
Whatever ``_target_`` names is called, so every name is checked before the first one is imported. A
config group may build

- a dataclass with the group's protocol (``ROLES``), one inside another too, and
- its parts: what the files of that group in ``conf`` name (a download, a benchmark), or a
  dataclass of the same module,

if its module is a file of the project or of the working folder. Hydra's ``instantiate`` is not
used: exactly what was checked is built, and no string is interpolated a second time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args, get_type_hints

from coincide.schema import UserError

PROJECT = Path(__file__).resolve().parent.parent
_MODEL = ("name", "template", "max_length", "step")
ROLES: Mapping[str, tuple[str, ...]] = {
    "data": ("name", "step", "open"),
    "method": ("name", "uses_seed", "fixed_size", "needs", "select"),
    "reference": _MODEL,
    **dict.fromkeys(("clip", "vision", "sentence", "models"), ("name", "dtype", "step")),
    "target": _MODEL,
    "targets": ("name", "step", "open"),
    "train": ("accumulation", "answer_config"),
    "eval": ("benchmarks", "answer_config"),
    "logger": ("mode", "project"),
    "launcher": ("launch",),
}
"""Config group -> attributes that its objects must have (``coincide.schema``)."""
PARTS = {"eval": ("benchmark", "eval/shared"), "targets": ("benchmark",)}
"""Group -> groups whose objects are nested in its own, or that its files build on."""
SPECIAL = ("_args_", "_partial_", "_recursive_", "_convert_")
"""Hydra's other keys; ``_convert_`` is allowed, since all containers are plain already."""
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
_PASSED: dict[str, Any] = {}
"""Name -> what was checked; :func:`make` builds nothing else."""
_NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")


def check_targets(config: Mapping[str, Any], conf: Path) -> None:
    """Raise UserError unless every object in ``config`` (resolved, plain containers) may be built.

    ``conf``: the folder of the config groups. The message names place and object; nothing is
    imported before its name was checked.
    """
    for group, value in config.items():
        allowed = named_targets(group, conf) if group in ROLES else frozenset()
        whole = value.get("_target_") if isinstance(value, Mapping) else None
        for place, target in _targets(value, str(group)):
            if group not in ROLES:
                raise UserError(
                    f"{place} is refused: objects are built of the groups {', '.join(ROLES)} "
                    "alone. Remove it. Nothing was built."
                )
            found = _locate(target)
            if place == f"{group}._target_":
                fits = found is not None and _has_role(found, group)
            else:
                inner = found is not None and _has_role(found, group)
                fits = inner or target in allowed or _part_of(found, whole)
            if found is None or not fits:
                raise UserError(_refusal(place, target, group, allowed))
            _PASSED[target] = found


def check_hydra(settings: Any, place: str = "hydra") -> None:
    """Raise UserError for settings of Hydra that name code other than Hydra's and Python's
    logging.
    """
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            prefix = {"_target_": ("hydra._internal.", "hydra_plugins."), "class": ("logging.",)}
            wrong = key in prefix and not str(value).startswith(prefix[key])
            if key == "()" or wrong:
                raise UserError(f"{place}.{key}={value!a} is refused: it names code to be called.")
            check_hydra(value, f"{place}.{key}")
    elif isinstance(settings, list | tuple):
        for number, value in enumerate(settings):
            check_hydra(value, f"{place}[{number}]")
    elif str(settings).startswith("ext://") and settings not in STREAMS:
        raise UserError(f"{place}={settings!a} is refused: it names an object to look up.")


def make(value: Any) -> Any:
    """The objects of a value that :func:`check_targets` accepted, inner ones first.

    Lists and mappings stay what they are.
    Raises UserError for a field that a dataclass does not have.
    """
    if isinstance(value, list):
        return [make(item) for item in value]
    if not isinstance(value, dict):
        return value
    made = {key: make(item) for key, item in value.items() if key not in ("_target_", *SPECIAL)}
    if "_target_" not in value:
        return made
    found = _PASSED[value["_target_"]]
    names = [field.name for field in fields(found) if field.init]
    if unknown := sorted(set(map(str, made)) - set(names)):
        raise UserError(
            f"{found.__name__} has no field {', '.join(map(ascii, unknown))}; it has "
            f"{', '.join(names)}."
        )
    hints = _hints(found)
    return found(**{name: as_declared(item, hints.get(name)) for name, item in made.items()})


def as_declared(value: Any, hint: Any) -> Any:
    """A number in the type that its field declares, where it is the same number there: ``1`` for a
    float is ``1.0``, so that both have one key. What is no such number stays as it is.
    """
    kinds = _kinds(hint)
    if isinstance(value, list):
        return [as_declared(item, hint) for item in value]
    if type(value) is int and kinds == {float} and float(value) == value:
        return float(value)
    if type(value) is float and kinds == {int} and value.is_integer():
        return int(value)
    if type(value) in (int, float) and kinds == {bool} and value in (0, 1):
        return bool(value)
    return value


def _kinds(hint: Any) -> set[type]:
    """The types of numbers that a field may hold, those of its items included."""
    inner = {kind for part in get_args(hint) for kind in _kinds(part)}
    return {hint} if hint in (bool, int, float) else inner


@cache
def _hints(found: type) -> Mapping[str, Any]:
    """The declared types of its fields; none where they cannot be told."""
    try:
        return get_type_hints(found)
    except (NameError, TypeError):  # of a class of the user's own
        return {}


def foreign_code(value: Any) -> Iterator[str]:
    """Folders of code that ``value`` names and that are outside the project and the working folder.

    Named by a benchmark's ``tasks_dir`` and ``overlay``.
    """
    if isinstance(value, list):
        for item in value:
            yield from foreign_code(item)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key in ("tasks_dir", "overlay") and isinstance(item, str):
                path = (PROJECT / "eval" / "tasks" / item).resolve()
                if not any(path.is_relative_to(home) for home in (PROJECT, Path.cwd().resolve())):
                    yield item
            else:
                yield from foreign_code(item)


@cache
def named_targets(group: str, conf: Path) -> frozenset[str]:
    """The ``_target_`` names in the files of ``group`` in ``conf``, which are read as text."""
    folders = (conf / name for name in (group, *PARTS.get(group, ())))
    texts = (path.read_text(encoding="utf-8") for f in folders for path in f.glob("*.yaml"))
    return frozenset(t for text in texts for t in re.findall(r"_target_:\s*['\"]?([\w.]+)", text))


def _targets(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Every ``_target_`` below ``value`` with its place.

    UserError for keys that would change it.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == "_target_":
                yield f"{place}._target_", item
            elif key in SPECIAL and not (key == "_convert_" and item in ("all", "partial", "none")):
                raise UserError(f"{place}.{key} is refused: objects are built as they are.")
            else:
                yield from _targets(item, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _targets(item, f"{place}[{number}]")


def _has_role(found: type, group: str) -> bool:
    there = {field.name for field in fields(found)} | set(dir(found))  # type: ignore[arg-type]
    return there.issuperset(ROLES[group])


def _part_of(found: type | None, whole: Any) -> bool:
    """Whether ``found`` is in the module of the object that it is a part of."""
    around = _locate(whole)
    return found is not None and around is not None and found.__module__ == around.__module__


def _locate(target: Any) -> type | None:
    """The dataclass of that name in a module of the project or the working folder; else None."""
    if not isinstance(target, str) or not _NAME.fullmatch(target):
        return None
    module, _, name = target.rpartition(".")
    if not _is_own(module, Path.cwd()):
        return None
    try:
        found = getattr(import_module(module), name, None)
    except ImportError:
        return None
    if not isinstance(found, type) or not is_dataclass(found):
        return None
    return found if _is_own(found.__module__, Path.cwd()) else None


@cache
def _is_own(module: str, here: Path) -> bool:
    """Whether ``module`` is a file below the project or the working folder; nothing is imported."""
    first, *rest = module.split(".")
    try:
        spec = find_spec(first)
    except (ImportError, ValueError):
        return False
    if spec is None or (spec.origin is None and not spec.submodule_search_locations):
        return False
    where = list(spec.submodule_search_locations or [str(spec.origin).removesuffix(".py")])
    top = Path(where[0]).resolve()
    path = top.joinpath(*rest)
    found = path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()
    return found and top.parent in (PROJECT, here.resolve())


def _refusal(place: str, target: Any, group: str, allowed: frozenset[str]) -> str:
    return (
        f"{place}={target!a} is refused: it is no object of the group {group!r}. The choices are "
        f"{', '.join(sorted(allowed))}; one of your own is a frozen dataclass with "
        f"{', '.join(ROLES[group])}, in a module beside run.py or in the working folder where "
        "Python finds it (PYTHONPATH). Nothing was built."
    )
