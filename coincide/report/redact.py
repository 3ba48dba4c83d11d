"""Secrets and control characters out of what a result records, before it is shown anywhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_SECRET_WORDS = {
    "key",
    "apikey",
    "token",
    "secret",
    "password",
    "passwd",
    "credential",
    "credentials",
}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_URL_USER = re.compile(r"(\w://)[^/@\s]+@")
_URL_QUERY = re.compile(
    r"([?&;][\w.-]*(?:key|token|secret|password|signature)[\w.-]*=)[^&;\s]*", re.IGNORECASE
)
_KNOWN_TOKEN = re.compile(r"\b(?:hf_|sk-|ghp_|gho_|github_pat_|xox[a-z]-|AKIA)[\w-]{12,}")
_ASSIGNMENT = re.compile(r"\+{0,2}([\w.@/-]+)=")


def is_secret(name: str) -> bool:
    """Whether a field's last name reads like a credential: ``judge.api_key``, ``hfToken``."""
    words = {word.lower() for word in _WORD.findall(name.rsplit(".", 1)[-1])}
    return not words.isdisjoint(_SECRET_WORDS)


def redact(value: Any) -> Any:
    """``value`` (JSON) without fields that read like credentials, nor credentials in its strings.

    Fields are dropped whole; an override ``judge.api_key=...`` in a list is dropped as well; user
    names and passwords in URLs and strings of the shape of well-known tokens are cut out.
    """
    if isinstance(value, Mapping):
        return {k: redact(v) for k, v in value.items() if not is_secret(str(k))}
    if isinstance(value, list | tuple):
        return [redact(item) for item in value if not _assigns_secret(item)]
    if isinstance(value, str):
        shown = _URL_QUERY.sub(r"\1", _URL_USER.sub(r"\1", value))
        return _KNOWN_TOKEN.sub("[removed]", shown)
    return value


def printable(value: Any, keep: str = "") -> Any:
    """``value`` (JSON) with control, bidirectional and unpaired characters of its text replaced,
    those in ``keep`` excepted."""
    if isinstance(value, Mapping):
        return {printable(str(k)): printable(v, keep) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [printable(item, keep) for item in value]
    if isinstance(value, str) and not value.isprintable():
        return "".join(c if c.isprintable() or c in keep else " " for c in value)
    return value


def _assigns_secret(item: Any) -> bool:
    match = _ASSIGNMENT.match(item) if isinstance(item, str) else None
    return match is not None and is_secret(match.group(1))
