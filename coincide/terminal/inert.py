"""Text from outside, fit for a terminal and a page: no character of it acts on what shows it.

File names, ids, answers and the logs of other programs may hold escape sequences (they recolour a
terminal, retitle its window, write to its clipboard), bidirectional overrides (they show a name
backwards) and line ends (they forge a line of their own).
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
"""C0 and C1 controls, DEL, line and paragraph separators, bidirectional marks, overrides and
isolates, unpaired surrogates (undecodable bytes of a file name), annotations and tags."""


def inert(text: object, keep: str = "") -> str:
    """``str(text)`` with each acting character but those in ``keep`` as its escape: ``\\x1b``."""
    return ACTING.sub(lambda m: m[0] if m[0] in keep else _escape(m[0]), str(text))


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


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


class InertStream:
    """A text stream on which outside text is inert, and without credentials; our own control
    sequences go to ``raw``.

    Line ends and tabs pass, and the carriage return with which a progress line begins.
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
    """The stream under ``stream``, for what renders and escapes by itself."""
    return stream.raw if isinstance(stream, InertStream) else stream


def guard_terminal() -> None:
    """Make everything that is printed from here on inert. Done once, where a program begins."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, InertStream):
            setattr(sys, name, cast(TextIO, InertStream(stream)))


def console() -> Console:
    """What prints tables: inert, as wide as the terminal, and wide enough for a log file.

    Brackets are text: a name cannot colour or link itself with rich's markup.
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
