"""Quote values of paths and names on the command line so that Hydra takes them literally.

Hydra's grammar gives ``=``, ``(``, ``,``, ``~``, ``#``, ``&``, brackets and non-ASCII letters a
meaning of their own. In a path or name they mean nothing, so such values are quoted here; ``~`` is
the home folder.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException

from coincide.schema import UserError

LITERAL = re.compile(
    r"\+{0,2}(paths\.\w+|logger\.(dir|group)"
    r"|(data|targets|target|reference|clip|vision|sentence|models|method|eval)"
    r"(\.\w+)*\.(annotations|images|root|path|repo|adapter|mirror|name|label|source_field|weights"
    r"|language|vision|projector|tower|folder|file))"
)
"""Keys whose values are paths or names."""
NAMES = ("name", "label", "group", "source_field")
"""Last parts of keys whose value is a name; in a name ``~`` is not the home folder."""
SWEEP = re.compile(r"(choice|range|interval|glob|sort|shuffle|tag)\(.*\)", re.S)
SPECIAL = set("'\"\\ ()[]{}&;#~$*?<>|!`\n\t")


def literal_words(words: Iterable[str], *, multirun: bool) -> list[str]:
    """``words`` with the values of paths and names quoted where Hydra would read them differently.

    In a sweep (``multirun``) a comma separates values, unless the whole value is an existing path.
    Raises :class:`UserError` for a word that Hydra cannot read, and says how to quote it.
    """
    return [_checked(_literal(word, multirun=multirun)) for word in words]


def shell(words: Iterable[str]) -> str:
    """``words`` joined and quoted for a shell."""
    return " ".join(shlex.quote(word) if SPECIAL & set(word) else word for word in words)


def _literal(word: str, *, multirun: bool) -> str:
    key, equals, value = word.partition("=")
    if not equals or not LITERAL.fullmatch(key):
        return word
    if not value or value in ("null", "???") or "${" in value or _is_quoted(value):
        return word
    path = not key.endswith(NAMES)
    whole = os.path.expanduser(value) if path else value  # noqa: PTH111
    if multirun and not (path and os.path.exists(whole)):  # noqa: PTH110
        if SWEEP.fullmatch(value):
            return word
        if "," in value:
            parts = (_value(part.strip(), path) for part in value.split(","))
            return f"{key}={','.join(parts)}"
    return f"{key}={_value(value, path)}"


def _is_quoted(value: str) -> bool:
    return len(value) > 1 and value[0] in "'\"" and value[0] == value[-1]


def _value(value: str, path: bool) -> str:
    """One value, quoted unless Hydra reads the bare word as this very text."""
    if _is_quoted(value):
        return value
    value = os.path.expanduser(value) if path else value  # noqa: PTH111
    try:
        (read,) = OverridesParser.create().parse_overrides([f"key={value}"])
        if not read.is_sweep_override() and read.value() == value:
            return value
    except OverrideParseException:
        pass
    return quoted(value)


def quoted(value: str) -> str:
    """``value`` as a quoted string in Hydra's grammar."""
    # a backslash counts only before a quote, and at the end of the text
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value)
    return f"'{escaped}'"


def _checked(word: str) -> str:
    try:
        OverridesParser.create().parse_overrides([word])
    except OverrideParseException as error:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(
                f"{word!r}: expected key=value, e.g. budget=0.2 or 'stages=[select,train]'."
            ) from error
        said = shlex.quote(f"{key}={quoted(value)}")
        raise UserError(
            f"{word!r} cannot be read: {str(error).splitlines()[0]}. If the value is meant as it "
            f"stands, quote it, for Hydra inside and for the shell outside: {said}"
        ) from error
    return word
