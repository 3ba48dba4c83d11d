"""A missing picture: where it was looked for, quoted, and what lies nearest."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from coincide.data.llava_json import read
from coincide.data.nearby import Neighbours
from coincide.schema import UserError
from tests.data.files import row, write

THERE = ("pics/a.jpg", "pics/my pic.png", "Photos/B.PNG", "plain/0001", "deep/er/x.png")
COMPOSED = unicodedata.normalize("NFC", "pics/café.png")
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)
MAC = "letters composed (NFC) in the data, decomposed (NFD)"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in (*THERE, DECOMPOSED):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("asked", "there", "how"),
    [
        ("pics/A.jpg", "pics/a.jpg", "letter case"),
        ("pics/a.JPG", "pics/a.jpg", "letter case"),
        ("PICS/a.jpg", "pics/a.jpg", "letter case"),
        ("photos/b.png", "Photos/B.PNG", "letter case"),
        ("pics/a.jpeg", "pics/a.jpg", "the ending .jpg for .jpeg"),
        ("pics/a.png", "pics/a.jpg", "the ending .jpg for .png"),
        ("pics/a", "pics/a.jpg", "the ending .jpg for none"),
        ("plain/0001.jpg", "plain/0001", "the ending left out for .jpg"),
        ("pics/a.jpg ", "pics/a.jpg", "a blank at the end"),
        (" pics/a.jpg", "pics/a.jpg", "blanks"),
        ("pics/mypic.png", "pics/my pic.png", "blanks"),
        ("pics/my%20pic.png", "pics/my pic.png", "%20 and the like for the letters"),
        ("pics\\a.jpg", "pics/a.jpg", "backslashes for slashes"),
        (".\\pics\\A.jpg", "pics/a.jpg", "backslashes for slashes and letter case"),
        (COMPOSED, DECOMPOSED, f"{MAC} in the folder"),
        ("images/pics/a.jpg", "pics/a.jpg", "without 'images'"),
        ("data/pics/A.jpg", "pics/a.jpg", "without 'data'"),
    ],
)  # fmt: skip
def test_the_nearest_name_and_how_it_differs(root: Path, asked: str, there: str, how: str) -> None:
    said = Neighbours(root).describe(asked)
    assert said == (f"{asked!r}, looked for at {str(root / asked)!r}; there is {there!r} ({how})")


def test_a_root_too_deep_or_too_high(root: Path) -> None:
    for deep in ("pics", "deep/er"):
        said = Neighbours(root / deep).describe("pics/a.jpg")
        assert f"it lies at '{root}/pics/a.jpg': set data.images='{root}'" in said
    said = Neighbours(root.parent).describe("pics/a.jpg")
    assert f"set data.images='{root}'" in said
    said = Neighbours(root).describe("pics/nothing/of.png")
    assert said.endswith(f"there is no folder '{root}/pics/nothing'")
    assert Neighbours(root).describe("pics/z.gif").endswith(f"looked for at '{root}/pics/z.gif'")


def test_a_name_too_long_for_any_file_is_missing_as_others_are(root: Path) -> None:
    name = f"{'x' * 300}/{'y' * 300}.png"
    assert f"there is no folder '{root}/xxx" in Neighbours(root).describe(name)


def test_the_report_of_the_reader_names_it_and_counts(root: Path) -> None:
    rows = [
        row("a", COMPOSED),
        row("b", "pics/A.jpg"),
        row("c", "pics/gone.png"),
        row("d", "pics/a.jpg"),
    ]
    path = write(root.parent, rows, ())
    with pytest.raises(UserError) as error:
        read(path, root, name="x")
    text = str(error.value)
    assert "3 x missing image: rows 0, 1, 2 (by source: pics 3); the first: 'pics/caf" in text
    assert f"there is {DECOMPOSED!r} (letters composed (NFC) in the data" in text
    assert "2 of 3 missing files have one so near (" in text
    assert "letter case: 1" in text


def test_a_folder_is_listed_once_for_all_its_pictures(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: Counter[str] = Counter()
    real = os.scandir

    def counting(folder: Path) -> object:
        listed[str(folder)] += 1
        return real(folder)

    monkeypatch.setattr("coincide.data.nearby.os.scandir", counting)
    names = {f"pics/{n}.png" for n in range(5000)} | {f"gone/{n}.png" for n in range(5000)}
    Neighbours(root).describe("pics/0.png", names)
    assert max(listed.values()) == 1
    assert set(listed) == {str(root), str(root / "pics")}
