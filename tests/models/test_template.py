"""Conversations as text."""

from __future__ import annotations

import pytest

from coincide.models.template import TEMPLATES, image_first, prompt, render
from coincide.schema import Turn

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)
TALK = [
    Turn("human", "what?\n<image>"),
    Turn("gpt", "red"),
    Turn("human", "why"),
    Turn("gpt", "so"),
]


@pytest.mark.parametrize(("name", "opening"), [("vicuna_v1", f"{SYSTEM} "), ("tiny", "")])
def test_whole_text(name: str, opening: str) -> None:
    segments = render(TEMPLATES[name], TALK)
    text = "".join(segment.text for segment in segments)
    expected = "USER: <image>\nwhat? ASSISTANT: red</s>USER: why ASSISTANT: so</s>"
    assert text == opening + expected
    assert [s.text for s in segments if s.answer] == [" red</s>", " so</s>"]
    assert TEMPLATES[name].opening == opening


def test_prompt_is_the_text_before_the_answer() -> None:
    template = TEMPLATES["vicuna_v1"]
    text = "".join(segment.text for segment in prompt(template, TALK[:3]))
    assert text.endswith("USER: why ASSISTANT:")
    whole = "".join(segment.text for segment in render(template, TALK))
    assert whole.removeprefix(text) == " so</s>"


def test_empty_turns_leave_their_role_alone() -> None:
    segments = render(TEMPLATES["tiny"], [Turn("human", ""), Turn("gpt", "")])
    assert "".join(s.text for s in segments) == "USER:ASSISTANT:"
    assert not any(s.answer for s in segments)


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("q <image>", "<image>\nq"),
        ("a <image> b", "<image>\na  b"),
        ("<image>", "<image>"),
        (" no image ", " no image "),
        ("<image> and <image>?", "<image> and <image>?"),
    ],
)
def test_image_first(text: str, moved: str) -> None:
    assert image_first(text) == moved
