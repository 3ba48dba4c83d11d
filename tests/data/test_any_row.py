"""Files and rows of any shape: read, or a fault that is told; never a traceback."""

from __future__ import annotations

import json
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


def asked(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


SAID = {"role": "assistant", "content": "red"}


def read(row: Any) -> Any:
    """The turns of a row of messages and its pictures, or the kind of its fault."""
    try:
        example, _, fault = parse(0, to_llava(row, Path("/pics")), folder_source)
    except BadRow as found:
        fault = found
    return fault.kind if fault else ([t.text for t in example.turns], example.images)


WHAT = (["<image>\nwhat?", "red"], ("a.png",))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        # columns of a table: lists as JSON text, a sequence of objects as an object of lists
        ({"messages": json.dumps([asked("what?"), SAID]), "images": '["a.png"]'}, WHAT),
        ({"messages": {"role": ["user", "assistant"], "content": ["what?", "red"]},
          "image": "a.png"}, WHAT),
        ({"messages": {"role": ["user"], "content": ["q", "a"]}}, "no conversation"),
        # two conversations of a row, and two texts or speakers of a turn
        ({"messages": [asked("what?"), SAID], "conversations": [
            {"from": "human", "value": "<image> what?"}, {"from": "gpt", "value": "red"}],
          "image": "a.png"}, WHAT),
        ({"messages": [asked("q"), SAID], "conversations": [asked("other"), SAID]},
         "text that is not read"),
        ({"messages": [asked("q"), {**SAID, "value": "blue"}]}, "malformed turn"),
        ({"messages": [asked("q"), {**SAID, "text": "blue"}]}, "malformed turn"),
        ({"messages": [asked("q"), {**SAID, "from": "human"}]}, "malformed turn"),
        ({"messages": [asked("q"), {**SAID, "from": "gpt", "value": "red"}]}, (["q", "red"], ())),
        # what belongs to a question or answer and is not read
        *(({"question": "q", "answer": "A", name: "x"}, "text that is not read") for name in (
            "instruction", "document", "article", "option_a", "choice1", "reasoning", "opA")),
        ({"instruction": "q", "output": "A", "choices": ["x", "y"]}, "text that is not read"),
        ({"texts": [{"user": "q", "assistant": "A", "options": ["x"]}]}, "text that is not read"),
        ({"question": "q", "answer": "A", "document": 7, "optional": "x"}, (["q", "A"], ())),
    ],
)  # fmt: skip
def test_what_a_row_says_twice_or_beside_is_not_dropped(row: Any, expected: Any) -> None:
    assert read(row) == expected


def test_llava_json_that_says_two_things_is_a_fault() -> None:
    said = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    for row, kind in (
        ({"conversations": said, "messages": [asked("q"), SAID]}, "text that is not read"),
        ({"conversations": [said[0], {**said[1], "content": "b"}]}, "malformed turn"),
        ({"conversations": said, "messages": [asked("q"), {**SAID, "content": "a"}]}, None),
    ):
        fault = parse(0, row, folder_source)[2]
        assert (fault.kind if fault else None) == kind


def test_a_system_prompt_beside_the_turns_is_left_out_and_counted() -> None:
    row = {"messages": [asked("q"), SAID], "system_prompt": "s"}
    said = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    for value in (to_llava(row, Path("/")), {"conversations": said, "system": "s"}):
        assert parse(0, value, folder_source)[1] == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"messages": []}\n{"mess', r"in row 1, the line at byte 17"),
        ('{"a": 1}\n\xff', "malformed JSON in row 1"),
        ("[1, 2", "malformed JSON at byte"),
        ("", "an empty file"),
        ('[{"id": ' + "9" * 5000 + "}]", "malformed JSON at byte 1 .*4300 digits"),
        ("id,question,answer\n1,q,a\n", "a table of columns .*to_json"),
    ],
)
def test_malformed_files(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(UserError, match=expected):
        Messages(str(tmp_path / "train.json"), str(tmp_path)).step()
