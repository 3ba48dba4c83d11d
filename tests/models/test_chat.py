"""Models with a chat template of their own: four families, their real processors, tiny weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from coincide.models.chat import end_ids, messages_of
from coincide.models.encode import Encoded, collate, encode, encode_prompt, model_inputs
from coincide.models.load import load_model, load_processor
from coincide.models.template import TEMPLATES
from coincide.schema import Dataset, Example, Turn, UserError
from tests.tiny_chat import FAMILIES, QWEN, make_tiny_chat

CHAT = TEMPLATES["chat"]
PICTURES = {"a.png": (40, 30), "b.png": (80, 50)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("chat")
    return {family: make_tiny_chat(family, root / family) for family in FAMILIES}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name, size in PICTURES.items():
        Image.fromarray(random.integers(0, 255, (*size, 3), dtype=np.uint8)).save(root / name)
    return Dataset("small", root / "train.json", root, ())


def example(*texts: str, images: tuple[str, ...] = ()) -> Example:
    turns = tuple(Turn("gpt" if i % 2 else "human", text) for i, text in enumerate(texts))
    return Example(7, "7", images, turns, "s")


ONE = example("what colour\n<image>", "red circle", images=("a.png",))
TWO = example("<image> then <image>?", "yes", "why", "so it is", images=("a.png", "b.png"))
TEXT = example("hello there", "three squares", "and now", "", "then", "no")


def usual(processor: Any, row: Example, dataset: Dataset, **options: Any) -> Any:
    """The row as transformers itself makes it."""
    messages = messages_of(row.turns)
    pictures = iter(Image.open(dataset.image_root / name) for name in row.images)
    for part in (part for message in messages for part in message["content"]):
        if part["type"] == "image":
            part["image"] = next(pictures)
    return processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", **options
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("row", [ONE, TWO, TEXT], ids=["one", "two", "text"])
def test_inputs_are_those_of_the_processor(
    folders: dict[str, Path], dataset: Dataset, family: str, row: Example
) -> None:
    processor = load_processor(folders[family])
    ours, theirs = encode(row, dataset, processor, CHAT, 512), usual(processor, row, dataset)
    ids = theirs.pop("input_ids")[0]
    if family == "llava":  # its template ends no answer: the end token is put behind the last
        ids = torch.cat([ids, torch.tensor([processor.tokenizer.eos_token_id])])
    assert torch.equal(ours.input_ids, ids)
    theirs.pop("attention_mask")
    assert sorted(theirs) == sorted(
        [*ours.extra, *(["pixel_values"] if ours.pixel_values is not None else [])]
    )
    for name, value in theirs.items():
        mine = ours.pixel_values if name == "pixel_values" else ours.extra[name]
        assert mine is not None
        assert torch.equal(mine.reshape(value.shape), value)


def words(processor: Any, encoded: Encoded, mask: torch.Tensor) -> str:
    return processor.tokenizer.decode(encoded.input_ids[mask])


ANSWERS = {
    "llava": ["red circle </s>", "yes  so it is </s>", "three squares no </s>"],
    "qwen2_5_vl": [
        "red circle<|im_end|>",
        "yes<|im_end|>so it is<|im_end|>",
        "three squares<|im_end|>no<|im_end|>",
    ],
    "idefics3": [
        " red circle<end_of_utterance>",
        " yes<end_of_utterance> so it is<end_of_utterance>",
        " three squares<end_of_utterance> no<end_of_utterance>",
    ],
    "llava_onevision": [
        "\nred circle<|im_end|>",
        "\nyes<|im_end|>\nso it is<|im_end|>",
        "\nthree squares<|im_end|>\nno<|im_end|>",
    ],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_are_the_answers_and_their_end(
    folders: dict[str, Path], dataset: Dataset, family: str
) -> None:
    """An empty answer has none. llava-1.5-hf's template ends answers with a space alone; the last
    of a conversation is taught to end."""
    processor = load_processor(folders[family])
    for row, expected in zip((ONE, TWO, TEXT), ANSWERS[family], strict=True):
        encoded = encode(row, dataset, processor, CHAT, 512)
        learnt = encoded.labels != -100
        assert words(processor, encoded, learnt).lstrip(" ") == expected.lstrip(" ")
        assert torch.equal(encoded.labels[learnt], encoded.input_ids[learnt])


@pytest.mark.parametrize("family", ["llava", "llava_onevision"])
def test_marks_of_the_template_are_kept_to(
    folders: dict[str, Path], dataset: Dataset, family: str
) -> None:
    """Transformers' own mask, and the end token that follows an answer."""
    processor = load_processor(folders[family])
    for row in (ONE, TWO):
        encoded = encode(row, dataset, processor, CHAT, 512)
        mask = usual(processor, row, dataset, return_assistant_tokens_mask=True)
        marked = torch.as_tensor(mask["assistant_masks"])[0].bool()
        marked = torch.nn.functional.pad(marked, (0, len(encoded.labels) - len(marked)))
        after = marked.roll(1) & (encoded.input_ids == processor.tokenizer.eos_token_id)
        assert torch.equal(encoded.labels != -100, marked | after)
        assert after.any()


def test_differences_find_what_marks_would_say(folders: dict[str, Path], dataset: Dataset) -> None:
    plain, marked = (load_processor(folders["qwen2_5_vl"]) for _ in range(2))
    marked.chat_template = QWEN.replace(
        "<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}",
        "<|im_start|>{{ message['role'] }}\n{% if message['role'] == 'assistant' %}"
        "{% generation %}{{ message['content'][0]['text'] }}<|im_end|>{% endgeneration %}"
        "{{ '\n' }}{% elif message['content'] is string %}",
    )
    for row in (ONE, TWO, TEXT):
        first, second = (encode(row, dataset, p, CHAT, 512) for p in (plain, marked))
        assert torch.equal(first.input_ids, second.input_ids)
        assert torch.equal(first.labels, second.labels)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_that_is_not_to_be_learnt_has_no_labels(
    folders: dict[str, Path], dataset: Dataset, family: str
) -> None:
    """By the template's marks and by differences alike; the tokens stay."""
    processor = load_processor(folders[family])
    first = next(i for i, turn in enumerate(TWO.turns) if turn.role == "gpt")
    said = list(TWO.turns)
    said[first] = replace(said[first], learn=False)
    whole, marked = (
        encode(row, dataset, processor, CHAT, 512) for row in (TWO, replace(TWO, turns=tuple(said)))
    )
    assert torch.equal(whole.input_ids, marked.input_ids)
    kept = words(processor, marked, marked.labels != -100)
    assert 0 < len(kept) < len(words(processor, whole, whole.labels != -100))
    assert said[first].text not in kept
    assert TWO.turns[-1].text in kept


@pytest.mark.parametrize("family", FAMILIES)
def test_masks(folders: dict[str, Path], dataset: Dataset, family: str) -> None:
    processor = load_processor(folders[family])
    one, text = (encode(row, dataset, processor, CHAT, 512) for row in (ONE, TEXT))
    assert torch.equal(one.image_mask, one.input_ids == processor.image_token_id)
    assert int(one.image_mask.sum()) > 0
    said = words(processor, one, one.text_mask)
    assert "what colour" in said
    assert said.rstrip().endswith(ANSWERS[family][0].strip())
    assert not (one.text_mask & one.image_mask).any()
    for marker in ("<row_", "<global-img>", "system", "helpful"):
        assert marker not in said
    assert not text.image_mask.any()
    assert words(processor, text, text.text_mask).startswith("hello there")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_means_the_same_in_any_batch(
    folders: dict[str, Path], dataset: Dataset, family: str
) -> None:
    processor = load_processor(folders[family])
    model = load_model(folders[family], torch.float64, "cpu")
    rows = [encode(row, dataset, processor, CHAT, 512) for row in (TEXT, TWO, ONE)]
    with torch.no_grad():
        joint = model(**double(collate(rows, 0))).logits
        for i, row in enumerate(rows):
            alone = model(**double(collate([row], 0))).logits[0]
            assert torch.allclose(joint[i, : len(alone)], alone, atol=1e-10)
    assert not torch.allclose(joint[1, -1], joint[2, -1])


def double(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v.double() if v.is_floating_point() else v for k, v in model_inputs(batch).items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_never_tears_an_image(
    folders: dict[str, Path], dataset: Dataset, family: str
) -> None:
    processor = load_processor(folders[family])
    model = load_model(folders[family], torch.float32, "cpu")
    whole = encode(TWO, dataset, processor, CHAT, 4096)
    one = encode(ONE, dataset, processor, CHAT, 4096)
    per_image = int(one.image_mask.sum())
    last = int(whole.image_mask.nonzero()[-1])
    for length in range(12, len(whole.input_ids) + 1, 5):
        cut = encode(TWO, dataset, processor, CHAT, length)
        assert 0 < len(cut.input_ids) <= length
        if length > last + 4:  # past the last image's closing marker
            assert torch.equal(cut.labels, whole.labels[:length])
            assert torch.equal(cut.text_mask, whole.text_mask[:length])
        elif length <= last:
            assert not cut.text_mask.any()
            assert (cut.labels == -100).all()
            assert int(cut.image_mask.sum()) in (0, per_image), "whole images only"
        with torch.no_grad():
            model(**model_inputs(collate([cut], 0)))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_is_the_beginning_of_the_conversation(
    folders: dict[str, Path], dataset: Dataset, family: str
) -> None:
    processor = load_processor(folders[family])
    whole = encode(ONE, dataset, processor, CHAT, 512)
    picture = Image.open(dataset.image_root / "a.png")
    asked = encode_prompt(ONE.turns[:1], [picture], processor, CHAT)
    answer = int((whole.labels != -100).nonzero()[0])
    if family == "llava_onevision":  # its answers begin with a line break, its prompts end in one
        assert processor.tokenizer.decode(asked.input_ids).endswith("assistant\n")
        answer -= 1
        asked = replace(asked, input_ids=asked.input_ids[:answer])
    assert torch.equal(asked.input_ids[:answer], whole.input_ids[: len(asked.input_ids)])
    assert (asked.labels == -100).all()


def test_end_tokens_are_the_checkpoints_and_the_tokenizers(folders: dict[str, Path]) -> None:
    processor = load_processor(folders["qwen2_5_vl"])
    model = load_model(folders["qwen2_5_vl"], torch.float32, "cpu")
    ending = processor.tokenizer.eos_token_id
    model.generation_config.eos_token_id = [0, ending]
    assert end_ids(processor, model) == [0, ending]
    model.generation_config.eos_token_id = None
    assert end_ids(processor, model) == [ending]


def test_what_cannot_be_marked_is_refused(folders: dict[str, Path], dataset: Dataset) -> None:
    processor = load_processor(folders["qwen2_5_vl"])
    processor.chat_template = QWEN.replace(
        "{{ content['text'] }}",
        "{% if loop.first and not loop.last %}{% endif %}{{ content['text'] if message == "
        "messages[-1] or message['role'] == 'user' else 'earlier' }}",
    )
    with pytest.raises(UserError, match=r"row 7.*writes a turn otherwise once more turns follow"):
        encode(TWO, dataset, processor, CHAT, 512)
    processor.chat_template = None
    with pytest.raises(UserError, match="has no chat template"):
        encode(TEXT, dataset, processor, CHAT, 512)
    processor.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(UserError, match="row 7, template chat: roles must alternate"):
        encode(TEXT, dataset, processor, CHAT, 512)


def test_placeholders_must_match(folders: dict[str, Path], dataset: Dataset) -> None:
    processor = load_processor(folders["qwen2_5_vl"])
    with pytest.raises(UserError, match="row 7: 0 <image> placeholders for 1 images"):
        encode(example("q", "a", images=("a.png",)), dataset, processor, CHAT, 512)
    with pytest.raises(UserError, match=r"row 7, template chat: .*image_pad"):
        encode(example("what is <|image_pad|>?", "a"), dataset, processor, CHAT, 512)
