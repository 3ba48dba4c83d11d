"""The tiny models see, ship what their command makes, and read any text."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from coincide.models import pretrain
from coincide.models.perception import caption_accuracy
from coincide.models.tiny import (
    ASSETS,
    SIZES_OF,
    draw_words,
    gate,
    load_shipped,
    make_model,
    make_processor,
)
from coincide.schema import HealthError, UserError

WORDS = ("yes", "no", "red")


@pytest.fixture(scope="module")
def processor() -> object:
    return make_processor()


@pytest.mark.parametrize("size", sorted(SIZES_OF))
def test_shipped_weights_see_as_recorded(size: str, processor: object) -> None:
    record = json.loads((ASSETS / f"{size}.json").read_text())
    found = caption_accuracy(load_shipped(size, processor), processor, scenes=256, seed=7)
    assert found["loss"] == pytest.approx(record["perception"]["loss"], abs=2e-3)
    assert found["colour"] > 0.9
    assert found["shape"] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("size", sorted(SIZES_OF))
def test_the_command_still_leads_there(size: str, processor: object) -> None:
    """Its first hundred steps, from the same initial weights, come to the recorded loss."""
    recorded = json.loads((ASSETS / f"{size}.json").read_text())["traces"]["tower"][0]
    torch.manual_seed(pretrain.SEED)
    model = make_model(SIZES_OF[size], processor.tokenizer).train()  # type: ignore[attr-defined]
    (found,) = pretrain.name_cells(model.model.vision_tower, stop=100)
    assert found["step"] == recorded["step"] == 100
    assert found["loss"] == pytest.approx(recorded["loss"], rel=0.02)


def test_a_blind_model_is_refused(processor: object) -> None:
    torch.manual_seed(0)
    blind = make_model(SIZES_OF["tiny_ref"], processor.tokenizer).eval()  # type: ignore[attr-defined]
    with pytest.raises(HealthError, match=r"fails the perception gate.*coincide\.models\.pretrain"):
        gate(blind, processor, "tiny_ref")


def test_the_tokenizer_reads_any_text_and_knows_the_demos_words(processor: object) -> None:
    tokenizer = processor.tokenizer  # type: ignore[attr-defined]
    for text in ("What colour is the circle?", "Zürich 42 – \n漢字"):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids) == text
    assert len(tokenizer(" large purple triangle", add_special_tokens=False).input_ids) == 3


def test_words_that_captions_lack_are_drawn_alone(processor: Any) -> None:
    model = load_shipped("tiny", processor)
    table, tokenizer = model.get_input_embeddings().weight.data, processor.tokenizer
    yes, no, red = (tokenizer(f" {w}", add_special_tokens=False).input_ids[0] for w in WORDS)
    cosine = torch.nn.functional.cosine_similarity
    before = table.clone()
    assert cosine(table[yes], table[no], dim=0) > 0.98
    draw_words(model, tokenizer, ["yes", "no"])
    assert abs(cosine(table[yes], table[no], dim=0)) < 0.3
    assert 0.8 < table[yes].norm() / table[red].norm() < 1.25
    assert (table != before).any(dim=1).nonzero()[:, 0].tolist() == sorted([yes, no])
    assert torch.equal(model.lm_head.weight, table), "tied"
    with pytest.raises(UserError, match=r"'green' is \d tokens"):
        draw_words(model, tokenizer, ["green"])
