"""Questions about one picture share what they begin with, and get the answers they get alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coincide.models.encode import Encoded
from coincide.models.template import TEMPLATES
from coincide.schema import Turn
from eval.decoding import Decoding
from eval.model import LmmsEvalModel
from tests.tiny_chat import FAMILIES, make_tiny_chat

RANDOM = np.random.default_rng(3)
PICTURES = [
    Image.fromarray(RANDOM.integers(0, 255, (*size, 3), dtype=np.uint8))
    for size in ((40, 30), (60, 64), (32, 32))
]
ASKED = [
    (text, shown)
    for shown in ((0,), (1,), (2,), (0, 1), ())
    for text in ("what colour?", "how many squares are there in all of this?", "hello", "is it so?")
] + [("what is seen here, then?", (1,)), ("same?", (2, 0))]
"""Questions, and the numbers of the pictures they show."""


def prompts(model: LmmsEvalModel) -> list[Encoded]:
    return [
        model.encode(
            [Turn("human", "<image>" * len(shown) + text)], [PICTURES[i] for i in shown], {}
        )
        for text, shown in ASKED
    ]


def make(folder: Path, *, tokens: int | None, dtype: str = "float64") -> LmmsEvalModel:
    return LmmsEvalModel(
        folder, None, template=TEMPLATES["chat"], batch_size=1, batch_tokens=tokens, dtype=dtype,
        device="cpu",
    )  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_each_prompt_alone(tmp_path: Path, family: str) -> None:
    folder = make_tiny_chat(family, tmp_path)
    decoding = Decoding(6, 1, ())
    plain = make(folder, tokens=None)
    expected = plain.answers(prompts(plain), decoding)
    assert len(set(expected)) > 1, "the answers should differ"
    for tokens in (100_000, 700, 1):
        shared = make(folder, tokens=tokens)
        assert shared.answers(prompts(shared), decoding) == expected
        assert shared.notes == [] and shared.counts is not None
        assert shared.counts.prompt_tokens == sum(len(p.input_ids) for p in prompts(plain))
        if tokens > 1:
            assert shared.counts.computed_tokens < 0.9 * shared.counts.prompt_tokens
