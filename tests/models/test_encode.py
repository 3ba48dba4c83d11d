"""Examples as tensors: masks, cuts, padding; checked on a real model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from coincide.data.images import CorruptImage, MissingImage, UnsafePath
from coincide.models.encode import Encoded, collate, encode, length_of
from coincide.models.template import TEMPLATES
from coincide.schema import Dataset, Example, Turn, UserError
from tests.tiny_llava import IMAGE_TOKENS

TINY, VICUNA = TEMPLATES["tiny"], TEMPLATES["vicuna_v1"]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (40, 30), colour).save(tmp_path / name)
    return Dataset("small", tmp_path / "train.json", tmp_path, ())


def example(*texts: str, images: tuple[str, ...] = (), row: int = 0) -> Example:
    turns = tuple(Turn("gpt" if i % 2 else "human", text) for i, text in enumerate(texts))
    return Example(row, str(row), images, turns, "s")


ONE = example("<image>\nwhat colour", "red circle", images=("a.png",))
TWO = example("<image> then <image>?", "yes", "why", "so it is", images=("a.png", "b.png"))
TEXT = example("hello there", "three squares")


def words(processor: Any, ids: torch.Tensor, mask: torch.Tensor) -> str:
    return processor.tokenizer.decode(ids[mask])


@pytest.mark.parametrize("template", [TINY, VICUNA])
def test_one_image(dataset: Dataset, processor: Any, template: Any) -> None:
    encoded = encode(ONE, dataset, processor, template, 512)
    ids = encoded.input_ids
    assert ids[0] == processor.tokenizer.bos_token_id
    assert (ids == processor.tokenizer.bos_token_id).sum() == 1
    assert int(encoded.image_mask.sum()) == IMAGE_TOKENS
    assert torch.equal(encoded.image_mask, ids == processor.image_token_id)
    assert words(processor, ids, encoded.labels != -100) == " red circle</s>"
    assert words(processor, ids, encoded.text_mask) == "\nwhat colour ASSISTANT: red circle</s>"
    assert torch.equal(encoded.labels[encoded.labels != -100], ids[encoded.labels != -100])
    assert encoded.pixel_values is not None
    assert encoded.pixel_values.shape == (1, 3, 32, 32)
    assert encoded.pixel_values.dtype == torch.float32


@pytest.mark.parametrize("template", [TINY, VICUNA])
def test_text_only_starts_after_the_system_prompt(
    dataset: Dataset, processor: Any, template: Any
) -> None:
    encoded = encode(TEXT, dataset, processor, template, 512)
    text = words(processor, encoded.input_ids, encoded.text_mask)
    assert text == "USER: hello there ASSISTANT: three squares</s>"
    assert words(processor, encoded.input_ids, encoded.labels != -100) == " three squares</s>"
    assert encoded.pixel_values is None
    assert not encoded.image_mask.any()


def test_several_images_and_turns(dataset: Dataset, processor: Any) -> None:
    encoded = encode(TWO, dataset, processor, TINY, 512)
    assert int(encoded.image_mask.sum()) == 2 * IMAGE_TOKENS
    assert encoded.pixel_values is not None
    assert encoded.pixel_values[:, 0].mean(dim=(1, 2)).tolist() == pytest.approx(
        [(1 - 0.48145466) / 0.26862954, -0.48145466 / 0.26862954], rel=1e-3
    ), "red, then blue"
    assert words(processor, encoded.input_ids, encoded.labels != -100) == " yes</s> so it is</s>"
    text = words(processor, encoded.input_ids, encoded.text_mask)
    assert text == " then ? ASSISTANT: yes</s>USER: why ASSISTANT: so it is</s>"


def test_ids_are_those_of_the_processor_itself(dataset: Dataset, processor: Any) -> None:
    """For a tokenizer that merges nothing across the placeholder, the usual way agrees."""
    text = "USER: <image>\nwhat colour ASSISTANT: red circle</s>"
    usual = processor(images=Image.new("RGB", (40, 30), "red"), text=text, return_tensors="pt")
    encoded = encode(ONE, dataset, processor, TINY, 512)
    assert torch.equal(encoded.input_ids, usual["input_ids"][0])
    assert torch.equal(encoded.pixel_values, usual["pixel_values"])


def test_loss_is_that_of_the_answer_alone(dataset: Dataset, processor: Any, model: Any) -> None:
    batch = collate([encode(ONE, dataset, processor, TINY, 512)], 0)
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask", "pixel_values")}
    with torch.no_grad():
        loss = model(**inputs, labels=batch["labels"]).loss
        logits = model(**inputs).logits[0]
    ids = batch["input_ids"][0]
    answer = range(len(ids) - int((batch["labels"] != -100).sum()), len(ids))
    by_hand = [-logits[t - 1].log_softmax(-1)[ids[t]] for t in answer]
    assert loss.item() == pytest.approx(torch.stack(by_hand).mean().item(), rel=1e-5)


# --- cuts -------------------------------------------------------------------------------------


def test_cut_in_the_text_keeps_what_is_before(dataset: Dataset, processor: Any) -> None:
    whole = encode(TWO, dataset, processor, TINY, 512)
    last_image = int(whole.image_mask.nonzero()[-1])
    for length in range(last_image + 1, len(whole.input_ids) + 2):
        cut = encode(TWO, dataset, processor, TINY, length)
        for field in ("input_ids", "labels", "image_mask", "text_mask"):
            assert torch.equal(getattr(cut, field), getattr(whole, field)[:length])
        assert torch.equal(cut.pixel_values, whole.pixel_values)


def test_cut_through_an_image_leaves_nothing_to_use(
    dataset: Dataset, processor: Any, model: Any
) -> None:
    whole = encode(TWO, dataset, processor, TINY, 512)
    last_image = int(whole.image_mask.nonzero()[-1])
    for length in range(1, last_image + 1):
        cut = encode(TWO, dataset, processor, TINY, length)
        assert 0 < len(cut.input_ids) <= length
        assert not cut.text_mask.any()
        assert (cut.labels == -100).all()
        images = 0 if cut.pixel_values is None else len(cut.pixel_values)
        assert int(cut.image_mask.sum()) == images * IMAGE_TOKENS, "whole images only"
        batch = collate([cut], 0)
        model(**{k: v for k, v in batch.items() if k not in ("image_mask", "text_mask")})


def test_empty_answer_has_no_labels(dataset: Dataset, processor: Any) -> None:
    encoded = encode(example("what", ""), dataset, processor, VICUNA, 512)
    assert (encoded.labels == -100).all()
    both = encode(example("what", "", "again", "red"), dataset, processor, VICUNA, 512)
    assert words(processor, both.input_ids, both.labels != -100) == " red</s>"


def test_an_answer_that_is_not_to_be_learnt_is_context_alone(
    dataset: Dataset, processor: Any
) -> None:
    """Its tokens and its end token stay where they are; only their labels go."""
    whole = example("what", "bad", "again", "red")
    said = list(whole.turns)
    said[1] = replace(said[1], learn=False)
    marked = replace(whole, turns=tuple(said))
    for template in (TINY, VICUNA):
        one, two = (encode(row, dataset, processor, template, 512) for row in (whole, marked))
        assert torch.equal(one.input_ids, two.input_ids)
        assert torch.equal(one.text_mask, two.text_mask)
        assert words(processor, one.input_ids, one.labels != -100) == " bad</s> red</s>"
        assert words(processor, two.input_ids, two.labels != -100) == " red</s>"


# --- images -----------------------------------------------------------------------------------


def test_a_bad_image_is_named_with_its_row(dataset: Dataset, processor: Any) -> None:
    (dataset.image_root / "b.png").write_bytes(b"")
    for name, kind in (("gone.png", MissingImage), ("b.png", CorruptImage)):
        bad = replace(ONE, images=(name,), row=41)
        with pytest.raises(kind, match=rf"row 41: image '{name}'"):
            encode(bad, dataset, processor, TINY, 512)


def test_a_blank_picture_takes_its_place_where_allowed(dataset: Dataset, processor: Any) -> None:
    allowed = replace(dataset, blank_images=frozenset({0}))
    images = ("gone.png", "b.png")
    encoded = encode(replace(TWO, images=images), allowed, processor, TINY, 512)
    assert encoded.pixel_values is not None
    assert encoded.pixel_values[0].abs().max() < 0.02, "the mean colour, zero once normalised"
    assert encoded.pixel_values[1].abs().max() > 0.5
    assert int(encoded.image_mask.sum()) == 2 * IMAGE_TOKENS
    with pytest.raises(UnsafePath):
        encode(replace(ONE, images=("../x.png",)), allowed, processor, TINY, 512)


def test_placeholders_must_match_images(dataset: Dataset, processor: Any) -> None:
    with pytest.raises(UserError, match="row 0: 0 <image> placeholders for 1 images"):
        encode(example("q", "a", images=("a.png",)), dataset, processor, TINY, 512)
    with pytest.raises(UserError, match="1 <image> placeholders for 0 images"):
        encode(example("q", "a stray <image>"), dataset, processor, TINY, 512)


def test_a_template_of_another_model_is_refused(dataset: Dataset, processor: Any) -> None:
    with pytest.raises(UserError, match=r"ends answers with '<\|im_end\|>'"):
        encode(TEXT, dataset, processor, replace(TINY, end="<|im_end|>"), 512)


# --- batches ----------------------------------------------------------------------------------


def batch_of(dataset: Dataset, processor: Any, *examples: Example) -> dict[str, torch.Tensor]:
    return collate([encode(e, dataset, processor, TINY, 512) for e in examples], 0)


def test_collate_pads_on_the_right(dataset: Dataset, processor: Any) -> None:
    batch = batch_of(dataset, processor, TEXT, TWO, ONE)
    lengths = batch["attention_mask"].sum(dim=1)
    assert int(lengths.max()) == batch["input_ids"].shape[1]
    for i, length in enumerate(lengths.tolist()):
        assert (batch["input_ids"][i, length:] == 0).all()
        assert (batch["labels"][i, length:] == -100).all()
        assert not batch["image_mask"][i, length:].any()
        assert not batch["text_mask"][i, length:].any()
        assert batch["attention_mask"][i, :length].all()
    assert batch["pixel_values"].shape == (3, 3, 32, 32)
    assert "pixel_values" not in batch_of(dataset, processor, TEXT)


def test_a_row_means_the_same_in_any_batch(dataset: Dataset, processor: Any, model: Any) -> None:
    together = batch_of(dataset, processor, TEXT, TWO, ONE)
    with torch.no_grad():
        joint = model(**forward(together)).logits
        for i, one in enumerate((TEXT, TWO, ONE)):
            alone = model(**forward(batch_of(dataset, processor, one))).logits[0]
            assert torch.allclose(joint[i, : len(alone)], alone, atol=1e-5)


def forward(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v for k, v in batch.items() if k in ("input_ids", "attention_mask", "pixel_values")}


def test_encoding_twice_gives_the_same_bytes(dataset: Dataset, processor: Any) -> None:
    def content(encoded: Encoded) -> bytes:
        assert encoded.pixel_values is not None
        return encoded.input_ids.numpy().tobytes() + encoded.pixel_values.numpy().tobytes()

    first, second = (content(encode(TWO, dataset, processor, VICUNA, 512)) for _ in range(2))
    assert first == second


def test_length_of_counts_words_and_marks_text_only() -> None:
    assert length_of(ONE) == 5
    assert length_of(TEXT) == -4
