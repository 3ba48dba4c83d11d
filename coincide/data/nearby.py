"""Explain why a picture is missing: the path that was tried, and the most similar path that exists.

Common differences are tried: letter case, Unicode form (a Mac decomposes é into two code points),
the suffix (.JPG, .jpg, .jpeg, .png), blanks, %20, backslashes, and an image root that is one or two
folders too deep or too high. Each folder is listed once.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

MOST = 1_000
"""Missing pictures that are looked up for the count; the first one always is."""
FOLDERS = 1_000
"""Folders of the image root that are searched in case the root is too high."""
_ENDINGS = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


@dataclass
class Neighbours:
    """Finds existing files with similar paths below ``root``; caches folder listings."""

    root: Path
    _listings: dict[str, _Listing] = field(default_factory=dict)

    def near(self, name: str) -> tuple[str, str] | None:
        """The existing path below the root most like ``name``, and how the two differ.

        None if none.
        """
        there = self._walked(_parts(name))
        return (there, _difference(name, there)) if there else self._shorter(name)

    def _shorter(self, name: str) -> tuple[str, str] | None:
        """The existing path for ``name`` without its first folders."""
        parts = _parts(name)
        for left_out in range(1, len(parts)):
            if there := self._walked(parts[left_out:]):
                return there, f"without {'/'.join(parts[:left_out])!r}"
        return None

    def _walked(self, parts: Sequence[str]) -> str:
        """The file that ``parts`` lead to, taking the most similar name at each level.

        Empty if none.
        """
        there = ""
        for part in parts:
            found = self._listing(there).nearest(part)
            if found is None:
                return ""
            there = f"{there}/{found}" if there else found
        return there if (self.root / there).is_file() else ""

    def other_root(self, name: str) -> Path | None:
        """Another folder below which ``name`` exists exactly; None if there is none.

        The image root is then set wrongly.
        """
        root = Path(os.path.abspath(self.root))  # noqa: PTH100 links stay as they are
        above = list(root.parents)[:2]
        below = [root / folder for folder in self._listing("").folders[:FOLDERS]]
        return next((f for f in (*above, *below) if os.path.isfile(f / name)), None)  # noqa: PTH113

    def describe(self, name: str, missing: Collection[str] = (), count: int | None = None) -> str:
        """In words: ``name``, where it was looked for, and what exists instead.

        Also how many of all ``missing`` pictures have a similar path; ``count``: how many are
        missing, if those given are the first of them by name.
        """
        count = len(missing) if count is None else count
        said = f"{name!r}, looked for at {str(self.root.absolute() / name)!r}"
        other = None if self._walked(_parts(name)) else self.other_root(name)
        if other:
            said += f"; it lies at {str(other / name)!r}: set data.images={str(other)!r}"
        elif near := self.near(name):
            said += f"; there is {near[0]!r} ({near[1]})"
        else:
            folders = [self.root.absolute() / part for part in reversed(Path(name).parents)]
            first = next((f for f in folders if not os.path.isdir(f)), None)  # noqa: PTH112
            said += f"; there is no folder {str(first)!r}" if first else ""
        return f"{said}{self._counted(missing, count)}" if count > 1 else said

    def _counted(self, missing: Collection[str], count: int) -> str:
        """How many of the missing pictures have a similar path, by kind of difference.

        May be empty.
        """
        looked = sorted(missing)[:MOST]
        kinds = Counter(near[1] for name in looked if (near := self.near(name)))
        listed = ", ".join(f"{kind}: {found:,}" for kind, found in kinds.most_common(5))
        which = "" if len(looked) == count else "the first "
        share = f"{sum(kinds.values()):,} of {which}{len(looked):,} missing files have one so near"
        return f"; {share} ({listed})" if kinds else ""

    def _listing(self, folder: str) -> _Listing:
        if folder not in self._listings:
            self._listings[folder] = _Listing.of(self.root / folder)
        return self._listings[folder]


@dataclass(frozen=True)
class _Listing:
    """The names in a folder: as they are, normalised, and normalised without a picture's suffix."""

    names: frozenset[str] = frozenset()
    folded: dict[str, str] = field(default_factory=dict)
    stems: dict[str, str] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path) -> _Listing:
        try:
            with os.scandir(folder) as found:
                entries = sorted((entry.name, entry.is_dir()) for entry in found)
        except OSError:
            return cls()
        names = [name for name, _ in entries]
        return cls(
            frozenset(names),
            {_fold(name): name for name in reversed(names)},
            {_stem(name): name for name in reversed(names) if _is_picture(name)},
            [name for name, is_folder in entries if is_folder],
        )

    def nearest(self, name: str) -> str | None:
        """``name`` itself; else the one with the same normalised form; else the same without
        suffix.
        """
        if name in self.names:
            return name
        found = self.folded.get(_fold(name))
        return self.stems.get(_stem(name)) if found is None else found


def _parts(name: str) -> list[str]:
    """The folders and the name of a path, with either kind of slash."""
    return [part for part in name.replace("\\", "/").split("/") if part.strip() not in ("", ".")]


def _fold(name: str) -> str:
    """Normalised name: equal for names that differ in case, Unicode form, blanks and %20."""
    plain = unicodedata.normalize("NFC", unquote(name)).casefold()
    return unicodedata.normalize("NFC", "".join(plain.split()))


def _stem(name: str) -> str:
    stem, ending = os.path.splitext(_fold(name))  # noqa: PTH122
    return stem if ending in _ENDINGS else f"{stem}{ending}"


def _is_picture(name: str) -> bool:
    ending = os.path.splitext(name)[1].lower().strip()  # noqa: PTH122
    return ending in _ENDINGS or not ending


def _difference(asked: str, there: str) -> str:
    """In words, how two paths with the same normalised form differ."""
    found = []
    if "\\" in asked:
        found.append("backslashes for slashes")
    if "%" in asked and "%" not in there:
        found.append("%20 and the like for the letters")
        asked = unquote(asked)
    asked = "/".join(_parts(asked))
    if _blanks(asked) != _blanks(there):
        found.append("a blank at the end" if asked != asked.rstrip() else "blanks")
    one, two = "".join(asked.split()), "".join(there.split())
    forms = _form(one), _form(two)
    if forms[0] != forms[1]:
        found.append(f"letters {forms[0]} in the data, {forms[1]} in the folder")
    one, two = (unicodedata.normalize("NFC", text) for text in (one, two))
    (one, mine), (two, its) = os.path.splitext(one), os.path.splitext(two)  # noqa: PTH122
    if mine.casefold() != its.casefold():
        found.append(f"the ending {its or 'left out'} for {mine or 'none'}")
    elif mine != its or one != two:
        found.append("letter case")
    return " and ".join(found) or "slashes"


def _blanks(text: str) -> list[int]:
    plain = unicodedata.normalize("NFC", text)
    return [n for n, letter in enumerate(plain) if letter.isspace()]


def _form(text: str) -> str:
    """The Unicode form of ``text``, if accents can be written in two ways."""
    composed, parted = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    if composed == parted:
        return ""
    return {composed: "composed (NFC)", parted: "decomposed (NFD)"}.get(text, "of both forms")
