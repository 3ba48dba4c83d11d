"""Models of other families answer through their own chat templates, in any batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from coincide.models.load import load_model, load_processor
from coincide.models.template import TEMPLATES
from eval.decoding import Decoding
from eval.model import LmmsEvalModel
from tests.eval.test_model import ask
from tests.tiny_chat import FAMILIES, make_tiny_chat

RANDOM = np.random.default_rng(1)


def document(text: str, *sizes: tuple[int, int]) -> list[dict[str, Any]]:
    images = [
        {"type": "image", "url": Image.fromarray(RANDOM.integers(0, 255, (*s, 3), dtype=np.uint8))}
        for s in sizes
    ]
    return [{"role": "user", "content": [*images, {"type": "text", "text": text}]}]


DOCUMENTS = [
    document("what colour is the circle?", (40, 30)),
    document("how many squares are there in all of this?", (60, 64)),
    document("hello"),
    document("same?", (32, 32), (48, 40)),
]


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_transformers_in_any_batch(tmp_path: Path, family: str) -> None:
    folder = make_tiny_chat(family, tmp_path)
    settings = {"max_new_tokens": 6}

    def model(batch_size: int) -> LmmsEvalModel:
        return LmmsEvalModel(
            folder, None, template=TEMPLATES["chat"], batch_size=batch_size, dtype="float64",
            device="cpu",
        )  # fmt: skip

    alone = ask(model(1), DOCUMENTS, settings)
    assert ask(model(3), DOCUMENTS, settings) == alone
    assert ask(model(8), DOCUMENTS, settings) == alone
    assert [usual(folder, row[0]["content"]) for row in DOCUMENTS] == alone


def usual(folder: Path, content: list[dict[str, Any]]) -> str:
    processor, model = load_processor(folder), load_model(folder, torch.float64, "cpu")
    messages = [{"role": "user", "content": [
        {"type": "image", "image": part["url"]} if part["type"] == "image" else part
        for part in content
    ]}]  # fmt: skip
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    with torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    width = inputs["input_ids"].shape[1]
    text = processor.tokenizer.decode(ids[0, width:], skip_special_tokens=True)
    return Decoding(6, 1, ()).cut(text)
