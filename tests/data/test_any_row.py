"""Files and rows of any shape: read, or a fault that is told; never a traceback."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from coincide.data.convert import to_llava
from coincide.data.fault import BadRow
from coincide.data.llava_json import folder_source
from coincide.data.messages import Messages
from coincide.data.parse import parse
from coincide.schema import UserError

FUZZ_KEYS = (
    "id image images messages conversations texts prompt completion query response history "
    "instruction input output system role from content value type text image_url url path bytes "
    "source data loss weight train video audio tools user assistant base64 mask <image_00>"
).split()
ATOMS: list[Any] = [
    None, True, False, 0, 1, 0.5, float("nan"), 10**30, "", "a", "<image>\nq", "user", "assistant",
    "text", "image", "<img>a.png</img>", "<video>", "data:image/png;base64,AAAA", "\ud800", b"x",
]  # fmt: skip


def anything(draw: random.Random, depth: int = 0) -> Any:
    kind = draw.random()
    if depth > 4 or kind < 0.45:
        return draw.choice(ATOMS)
    if kind < 0.7:
        return [anything(draw, depth + 1) for _ in range(draw.randint(0, 3))]
    count = draw.randint(0, 5)
    return {draw.choice(FUZZ_KEYS): anything(draw, depth + 1) for _ in range(count)}


def test_whatever_a_row_holds_it_is_read_or_a_fault(tmp_path: Path) -> None:
    """Never a traceback: wrong types in every field of every form."""
    kinds: Counter[str] = Counter()
    for seed in range(2000):
        draw = random.Random(seed)
        turns = [
            {
                draw.choice(["role", "from"]): draw.choice(["user", "assistant", "system", None]),
                draw.choice(["content", "value"]): anything(draw, 2),
                draw.choice(FUZZ_KEYS): anything(draw, 3),
            }
            for _ in range(draw.randint(0, 4))
        ]
        row = {draw.choice(FUZZ_KEYS): anything(draw, 1) for _ in range(draw.randint(0, 6))}
        row[draw.choice(["messages", "conversations", "prompt", "texts", "history"])] = turns
        for value in (row, anything(draw)):
            try:
                found: Any = to_llava(value, tmp_path)
            except BadRow as fault:
                found = fault
            for read_as in (found, value):
                fault = parse(0, read_as, folder_source)[2]
                kinds[fault.kind if fault else "read"] += 1
    assert len(kinds) > 10, "many kinds are met"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"messages": []}\n{"mess', r"in row 1, the line at byte 17"),
        ('{"a": 1}\n\xff', "malformed JSON in row 1"),
        ("[1, 2", "malformed JSON at byte"),
        ("", "an empty file"),
    ],
)
def test_malformed_files(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(UserError, match=expected):
        Messages(str(tmp_path / "train.json"), str(tmp_path)).step()
