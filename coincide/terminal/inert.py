"""Make text from outside harmless for a terminal or page: control characters are escaped.

File names, ids, answers and logs of other programs may hold escape sequences (which change colours,
the window title or the clipboard of a terminal), bidirectional overrides (which show a name
backwards) and line ends (which forge a line).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO, cast

from coincide.terminal.redact import redact

if TYPE_CHECKING:
    from rich.console import Console

ACTING = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
    "\ufff9-\ufffb\U000e0000-\U000e007f]"
)
"""Characters that are escaped: C0 and C1 controls, DEL, line and paragraph separators,
bidirectional marks, overrides and isolates, unpaired surrogates (undecodable bytes of a file name),
annotations and tags."""


def inert(text: object, keep: str = "") -> str:
    """``str(text)`` with these characters, except those in ``keep``, as escapes like ``\\x1b``."""
    return ACTING.sub(lambda m: m[0] if m[0] in keep else _escape(m[0]), str(text))


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def printable(value: Any, keep: str = "") -> Any:
    """``value`` (JSON) with the texts in it :func:`inert`; characters in ``keep`` stay."""
    if isinstance(value, str):
        if value.isprintable():
            return value
        return "".join(c if c.isprintable() or c in keep else " " for c in value)
    if value is None or isinstance(value, int | float):  # before what takes longer to be told
        return value
    if isinstance(value, Mapping):
        return {printable(str(k)): printable(v, keep) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [printable(item, keep) for item in value]
    return value


class InertStream:
    """A text stream that escapes control characters and removes credentials from what is written.

    Our own control sequences are written to ``raw`` instead. Line ends, tabs, and the carriage
    return that starts a progress line are kept.
    """

    def __init__(self, raw: TextIO) -> None:
        self.raw = raw

    def write(self, text: str) -> int:
        head, body = ("\r", text[1:]) if text[:1] == "\r" else ("", text)
        self.raw.write(head + inert(redact(body), keep="\n\t"))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


def raw(stream: TextIO) -> TextIO:
    """The stream below ``stream``, for code that escapes by itself."""
    return stream.raw if isinstance(stream, InertStream) else stream


def guard_terminal() -> None:
    """Make standard output and error :class:`InertStream` from here on.

    Called where a program begins.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, InertStream):
            setattr(sys, name, cast(TextIO, InertStream(stream)))


def console() -> Console:
    """A rich console for tables: inert, as wide as the terminal, and wide in a log file.

    Brackets are plain text, so a name cannot use rich's markup.
    """
    from rich.console import Console

    class Inert(Console):
        def render(self, renderable: Any, options: Any = None) -> Any:
            for segment in super().render(renderable, options):
                text = segment.text if segment.control else inert(segment.text, keep="\n")
                yield segment._replace(text=text)

    stream = raw(sys.stdout)
    found = Inert(file=stream, markup=False, emoji=False)
    return found if found.is_terminal else Inert(file=stream, markup=False, emoji=False, width=140)
