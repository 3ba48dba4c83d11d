"""Keep credentials out of frozen runs and the ledger: references to environment variables stay
references.

A field that refers to the environment (``${oc.env:NAME}``, also through other fields) is stored as
that reference and resolved when the job runs; folders (``paths``) are resolved when it is
submitted. A credential that was typed is put into an environment variable of this process, which
its jobs inherit (sbatch passes the environment on as well), and the file refers to that variable.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.resolvers import oc

from coincide.schema import UserError
from coincide.terminal.redact import is_secret, is_secret_variable, redact

SETTLED = "paths"
"""Config group whose references are resolved when a run is submitted."""


def frozen_config(cfg: DictConfig, tag: str) -> dict[str, Any]:
    """``cfg`` in plain containers, for a frozen file: resolved, except for references to the
    environment.

    ``tag`` is appended to the names of variables made for credentials, so that runs do not share
    them.
    """
    with _watched() as seen:
        found: dict[str, Any] = _kept(cfg, "", tag, seen)
    return found


def ledger_config(cfg: DictConfig) -> dict[str, Any]:
    """``cfg`` in plain containers, for the ledger: resolved, except for references to credentials.

    A variable counts as a credential by its name.
    """
    with _watched() as seen:
        found: dict[str, Any] = _recorded(cfg, seen)
    return found


def variables(cfg: DictConfig) -> dict[str, str]:
    """Name -> hash of the value, for the variables without credentials that ``cfg`` refers to.

    A job can then detect that a variable has changed since the run was submitted.
    """
    with _watched() as seen:
        OmegaConf.to_container(cfg, resolve=True)
        return {name: _digest(name) for name in sorted(seen) if not _hides(name)}


def check_variables(known: Mapping[str, str]) -> None:
    """Raise UserError if one of ``known`` (from :func:`variables`) has another value now."""
    for name, digest in known.items():
        if name not in os.environ or _digest(name) != digest:
            there = "has another value" if name in os.environ else "is not set"
            raise UserError(
                f"the environment variable {name!a} {there} here than when the run was submitted, "
                "which refers to it. Set it as it was, or submit the run anew."
            )


def _kept(node: Any, place: str, tag: str, seen: set[str], secret: bool = False) -> Any:
    if isinstance(node, DictConfig):
        keys: Any = list(node)
    elif isinstance(node, ListConfig):
        keys = list(range(len(node)))
    else:
        return _hidden(node, place, tag, secret)
    found = {}
    for key in keys:
        where = f"{place}.{key}" if place else str(key)
        raw: Any = node._get_node(key)
        hide = secret or (isinstance(key, str) and is_secret(key, {}))
        if OmegaConf.is_missing(node, key):
            found[key] = "???"
        elif OmegaConf.is_interpolation(node, key):
            seen.clear()
            value = node[key]
            refers = bool(seen) and where.split(".")[0] != SETTLED
            found[key] = raw._value() if refers else _kept(value, where, tag, seen, hide)
        else:
            found[key] = _kept(node[key], where, tag, seen, hide)
    return [found[key] for key in keys] if isinstance(node, ListConfig) else found


def _hidden(value: Any, place: str, tag: str, secret: bool) -> Any:
    """``value``; a credential is put into a variable and replaced by a reference to it."""
    if value is None or isinstance(value, bool):
        return value
    text = str(value)
    if not (secret or is_secret(place, value) or redact(text) != text):
        return text.replace("${", "\\${") if isinstance(value, str) else value
    name = re.sub(r"\W+", "_", f"COINCIDE_{place}_{tag}").upper()
    os.environ[name] = text
    reference = f"${{oc.env:{name}}}"
    return reference if isinstance(value, str) else f"${{oc.decode:{reference}}}"


def _recorded(node: Any, seen: set[str]) -> Any:
    if isinstance(node, ListConfig):
        return [_leaf(node, i, seen) for i in range(len(node))]
    if isinstance(node, DictConfig):
        return {key: _leaf(node, key, seen) for key in node}
    return node


def _leaf(node: Any, key: Any, seen: set[str]) -> Any:
    if OmegaConf.is_missing(node, key):
        return "???"
    seen.clear()
    value = node[key]
    refers = OmegaConf.is_interpolation(node, key) and any(map(is_secret_variable, seen))
    return node._get_node(key)._value() if refers else _recorded(value, seen)


def _hides(name: str) -> bool:
    """Whether the variable holds a credential, by its name or value."""
    value = os.environ.get(name, "")
    return is_secret_variable(name) or redact(value) != value


def _digest(name: str) -> str:
    return hashlib.sha256(os.environ.get(name, "").encode()).hexdigest()[:16]


@contextmanager
def _watched() -> Iterator[set[str]]:
    """In this context, collects the variables that interpolations look up."""
    seen: set[str] = set()

    def env(name: str, *default: Any) -> Any:
        seen.add(name)
        return oc.env(name, *default)

    OmegaConf.register_new_resolver("oc.env", env, replace=True)
    try:
        yield seen
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)
