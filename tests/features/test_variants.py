"""A row without its images or its questions, under a chat template, to the token."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coincide.features.forward import variants
from coincide.models.encode import IGNORE, Encoded, ImageCache, encode
from coincide.models.load import load_processor
from coincide.models.template import TEMPLATES
from coincide.schema import Dataset, Example, Turn, UserError
from tests.features.conftest import Source, rows
from tests.tiny_chat import make_tiny_chat

CHAT = TEMPLATES["chat"]


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_processor(make_tiny_chat("qwen2_5_vl", tmp_path_factory.mktemp("qwen")))


@pytest.fixture(scope="module")
def dataset(source: Source) -> Dataset:
    return source.open(Path())


def said(encoded: Encoded, processor: Any, *, answers: bool = False) -> str:
    """The text of a row, or of its answers."""
    chosen = encoded.labels != IGNORE if answers else encoded.labels == encoded.labels
    return processor.tokenizer.decode(encoded.input_ids[chosen])


@pytest.mark.parametrize("row", [1, 4, 7, 8])
def test_no_trace_of_an_image_is_left_and_the_answers_are_the_same(
    row: int, processor: Any, dataset: Dataset
) -> None:
    example = rows()[row]
    whole = encode(example, dataset, processor, CHAT, 256)
    blind = variants.blind(whole, example, dataset, processor, CHAT, 256)
    assert "<|vision_start|>" in said(whole, processor)
    assert "vision" not in said(blind, processor) and "image" not in said(blind, processor)
    assert blind.pixel_values is None and not blind.extra.get("image_grid_thw")
    answers = [said(each, processor, answers=True) for each in (whole, blind)]
    assert answers[0] == answers[1]
    assert "larger" in said(blind, processor) or "same?" in said(blind, processor)


def test_answers_that_the_whole_row_loses_are_not_scored(processor: Any, dataset: Dataset) -> None:
    example = rows()[8]
    whole = encode(example, dataset, processor, CHAT, 256)
    assert int((whole.labels != IGNORE).sum()) > 4
    for lost in (3, 40):
        cut = encode(example, dataset, processor, CHAT, len(whole.input_ids) - lost)
        blind = variants.blind(cut, example, dataset, processor, CHAT, 256)
        answers = [said(each, processor, answers=True) for each in (cut, blind)]
        assert answers[0] == answers[1] != said(whole, processor, answers=True)


def test_unasked_rows_hold_images_and_learnt_answers_alone(
    processor: Any, dataset: Dataset
) -> None:
    example = rows()[8]
    turns = (*example.turns, Turn("human", "and?"), Turn("gpt", "not learnt", learn=False))
    example = replace(example, turns=turns)
    cache = ImageCache()
    whole = encode(rows()[8], dataset, processor, CHAT, 256, cache)
    found = variants.unasked(whole, example, dataset, processor, CHAT, 256, cache)
    text = said(found, processor)
    assert "larger" not in text and "squares" not in text and "learnt" not in text
    assert said(found, processor, answers=True).startswith("yes yes yes  three")
    assert found.pixel_values is whole.pixel_values, "one copy travels"
    for encoded in (whole, found):
        assert (encoded.labels[encoded.image_mask] == IGNORE).all()
        assert encoded.image_mask.any()


def test_a_masked_token_for_an_image_is_refused_under_a_chat_template(
    processor: Any, dataset: Dataset
) -> None:
    example: Example = rows()[1]
    whole = encode(example, dataset, processor, CHAT, 256)
    with pytest.raises(UserError, match=r"method\.image=masked.*Set method\.image=removed"):
        variants.masked(whole, example, dataset, processor, CHAT, 256)
