"""The tiny models see, ship what their command makes, and read any text."""

from __future__ import annotations

import json

import pytest
import torch

from coincide.models import pretrain
from coincide.models.perception import caption_accuracy
from coincide.models.tiny import ASSETS, SIZES_OF, gate, load_shipped, make_model, make_processor
from coincide.schema import HealthError


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
