"""Text from outside reaches a terminal as text: it moves no cursor and forges no line."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from coincide.terminal.inert import ACTING, InertStream, console, guard_terminal, inert, raw
from coincide.terminal.progress import bar
from tests.command.conftest import command, environment

ODD = "a\x1b[31mb\x1b]0;t\x07\x9b2Jc\u202ed\u2066e\r\nerror: f\x7f\ud800\u2028\b"


def acting(text: str) -> list[str]:
    return [c for c in ACTING.findall(text) if c not in "\n\t"]


def test_each_acting_character_is_shown_as_its_escape() -> None:
    shown = inert(ODD)
    assert shown == (
        "a\\x1b[31mb\\x1b]0;t\\x07\\x9b2Jc\\u202ed\\u2066e\\r\\nerror: f\\x7f\\ud800\\u2028\\x08"
    )
    assert inert(shown) == shown
    for plain in ("é ü 漢字 ع 👩‍🔬 – “x”", "a b", ""):
        assert inert(plain) == plain
    assert inert("a\nb\tc", keep="\n\t") == "a\nb\tc"


def test_a_guarded_stream_keeps_lines_and_its_own_progress() -> None:
    below = io.StringIO()
    stream = InertStream(below)
    print(f"\rtrain: {ODD}", file=stream)
    stream.writelines(["x\ty\n", "https://me:zq7kzq7k@host.example/v1\n"])
    assert below.getvalue().startswith("\rtrain: a\\x1b[31m")
    assert acting(below.getvalue()[1:]) == []
    assert below.getvalue().endswith("x\ty\nhttps://host.example/v1\n")
    assert raw(stream) is below  # type: ignore[arg-type]
    assert stream.getvalue() == below.getvalue()


def test_tables_and_bars_are_inert_and_names_are_no_markup(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    guard_terminal()
    guard_terminal()  # once is enough
    table = Table("name")
    for cell in (ODD, "[red]x[/] :smile:", Text(ODD)):
        table.add_row(cell)
    console().print(table)
    console().print(f"Plan: {ODD}", style="bold", highlight=False)
    with bar(ODD, total=2, unit="file") as shown:
        shown.update(2)
    assert acting(out.getvalue()) == [] and "\\x1b[31mb" in out.getvalue()
    assert "[red]x[/] :smile:" in out.getvalue()
    assert acting(err.getvalue().replace("\r", "")) == []


def test_names_of_a_dataset_reach_the_terminal_inertly(tmp_path: Path) -> None:
    rows = [
        {
            "id": f"{i}{ODD[:12]}",
            "image": f"s\x1b[2J\nerror: forged\u202e/{i}.png",
            "conversations": [
                {"from": "human", "value": "<image>\nwhat"},
                {"from": "gpt", "value": "this"},
            ],
        }
        for i in range(3)
    ]
    (tmp_path / "x.json").write_text(json.dumps(rows))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "y.png").write_bytes(b"")
    words = [f"data.annotations={tmp_path}/x.json", f"data.images={tmp_path}/images"]
    line = command("data=llava_json", *words, "stages=[select]", "method=random", "budget=1")
    said = subprocess.run(line, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert said.returncode == 2, said.stderr
    assert "\\x1b[2J\\nerror: forged\\u202e" in said.stderr
    assert acting(said.stdout) == [] and acting(said.stderr) == []
    assert "\nerror: forged" not in said.stderr and "Traceback" not in said.stderr
