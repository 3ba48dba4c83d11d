"""Encode examples as tensors: token ids, label mask, image and text masks, pixels.

Token ids and labels equal those of LLaVA's ``tokenizer_image_token`` and ``preprocess_v1``
(haotian-liu/LLaVA, commit c121f04): the text is cut at ``<image>``, each piece is tokenised as a
whole, and there is one BOS, at the start. Labels are found by character offsets, so they mark the
answers exactly, whatever the tokenizer merges. With the template ``chat`` ids and further inputs
are the processor's own (``coincide.models.chat``).
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from coincide.data.images import BadImage, load_image
from coincide.models.chat import cut_before, encode_turns
from coincide.models.inputs import ALIKE, PER_TOKEN, PIXELS, groups, joined, way_of
from coincide.models.squares import shrink_large
from coincide.models.template import IMAGE, Segment, Template, prompt, render
from coincide.schema import Dataset, Example, Turn, UserError

if TYPE_CHECKING:
    from PIL.Image import Image

IGNORE = -100
OF_LLAVA = ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens")
"""What tells how many tokens an image takes in a template of ours."""
OURS = ("image_mask", "text_mask")
"""Entries of a batch that are not inputs of the model."""


@dataclass(frozen=True)
class Encoded:
    """One encoded example. T tokens, n images.

    An example whose images do not fit into ``max_length`` is cut before the first image that does
    not fit, and has neither text nor answer tokens: the feature pass marks it as invalid, and
    training learns nothing from it.
    """

    input_ids: torch.Tensor
    """int64 [T]."""
    labels: torch.Tensor
    """int64 [T], -100 on all tokens that are not part of an answer; not shifted."""
    image_mask: torch.Tensor
    """bool [T]: positions of image features."""
    text_mask: torch.Tensor
    """bool [T]: text after the first image; without images, text after the system prompt."""
    pixel_values: torch.Tensor | None
    """float32 [n, 3, H, W]; with ``chat`` as the processor gives them; None without images."""
    extra: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Further inputs of the model: [T] for those in ``PER_TOKEN``, else per image."""
    way: str = ALIKE
    """How its inputs are joined with those of other rows (``coincide.models.inputs``)."""

    @property
    def sees(self) -> bool:
        """Whether the model is shown an image."""
        return bool(self.by_picture)

    @property
    def by_picture(self) -> dict[str, torch.Tensor]:
        """The model's inputs that are not by token, pixels included."""
        found = {name: value for name, value in self.extra.items() if name not in PER_TOKEN}
        return found if self.pixel_values is None else {**found, PIXELS: self.pixel_values}


@dataclass
class ImageCache:
    """Images that were read and prepared already, for rows that share them.

    Keys: name, blank allowed.
    """

    pictures: dict[tuple[str, bool], Image] = field(default_factory=dict)
    pixels: dict[tuple[str, bool], torch.Tensor] = field(default_factory=dict)


@dataclass
class _Tokens:
    """The sequence under construction; four lists of one length."""

    ids: list[int]
    image: list[int]
    """Number of the image, -1 for text."""
    answer: list[bool]
    text: list[bool]


def encode(
    example: Example,
    dataset: Dataset,
    processor: Any,
    template: Template,
    max_length: int,
    cache: ImageCache | None = None,
) -> Encoded:
    """``example`` as input of the model with ``processor``, cut on the right at ``max_length``.

    With a ``cache`` every image is read and prepared once for all rows that show it. Raises
    :class:`UserError`, naming row and file, for an image that cannot be read (unless the row is in
    ``dataset.blank_images``) and for placeholders that do not match the images.
    """
    cache = cache or ImageCache()
    keys = [(name, example.row in dataset.blank_images) for name in example.images]
    for key in keys:
        if key not in cache.pictures:
            cache.pictures[key] = picture(example, dataset, key[0], processor)
    pictures = [cache.pictures[key] for key in keys]
    where = f"row {example.row}" if example.row >= 0 else "the blank row that fills batches"
    if template.of_processor:
        return _chat(example.turns, pictures, processor, max_length, where)
    for key, image in zip(keys, pictures, strict=True):
        if key not in cache.pixels:
            cache.pixels[key] = pixels_of([image], processor)
    prepared = [cache.pixels[key] for key in keys]
    pixels = prepared[0] if len(prepared) == 1 else torch.cat(prepared) if prepared else None
    return _encoded(render(template, example.turns), pixels, processor, template, max_length, where)


def encode_blank(
    turns: Sequence[Turn],
    pictures: Sequence[Image],
    processor: Any,
    template: Template,
    max_length: int,
) -> Encoded:
    """Like :func:`encode`, with ``pictures`` instead of the images of a dataset.

    Raises :class:`UserError` for turns that template or processor do not accept.
    """
    if template.of_processor:
        return _chat(turns, pictures, processor, max_length, "")
    prepared = [pixels_of([image], processor) for image in pictures]
    pixels = torch.cat(prepared) if prepared else None
    return _encoded(render(template, turns), pixels, processor, template, max_length, "")


def encode_prompt(
    turns: Sequence[Turn],
    pictures: Sequence[Image],
    processor: Any,
    template: Template,
    prepared: dict[bytes, torch.Tensor] | None = None,
) -> Encoded:
    """What the model reads before it answers the last of ``turns``; nothing is cut.

    ``prepared``: pixels of pictures by their content, for prompts that share some; filled here.
    """
    pictures = [shrink_large(image, processor) for image in pictures]
    if template.of_processor:
        return _chat(turns, pictures, processor, sys.maxsize, "prompt", asking=True)
    known = {} if prepared is None else prepared
    found = []
    for image in pictures:
        content = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).digest()
        if content not in known:
            known[content] = pixels_of([image], processor)
        found.append(known[content])
    pixels = found[0] if len(found) == 1 else torch.cat(found) if found else None
    return _encoded(prompt(template, turns), pixels, processor, template, sys.maxsize, "prompt")


def pixels_of(pictures: Sequence[Image], processor: Any) -> torch.Tensor:
    """The pictures as float32 [n, 3, H, W], for a template of ours.

    Raises UserError for a processor of another kind than LLaVA's.
    """
    if lacking := [name for name in OF_LLAVA if not hasattr(processor, name)]:
        raise UserError(
            "templates of this project serve models with a LlavaProcessor; "
            f"{type(processor).__name__} has no {', '.join(lacking)}. Set template=chat, the "
            "model's own chat template."
        )
    found = processor.image_processor(list(pictures), return_tensors="pt")["pixel_values"]
    assert isinstance(found, torch.Tensor)
    return found


def _encoded(
    segments: Sequence[Segment],
    pixels: torch.Tensor | None,
    processor: Any,
    template: Template,
    max_length: int,
    where: str,
) -> Encoded:
    widths = [] if pixels is None else [image_tokens(processor, *p.shape[-2:]) for p in pixels]
    placeholders = sum(segment.text.count(IMAGE) for segment in segments)
    if placeholders != len(widths):
        raise UserError(f"{where}: {placeholders} {IMAGE} placeholders for {len(widths)} images.")
    tokens = _tokenize(segments, len(template.opening), processor, template, widths)
    return _cut(tokens, max_length, pixels)


def _chat(
    turns: Sequence[Turn],
    pictures: Sequence[Image],
    processor: Any,
    max_length: int,
    where: str,
    *,
    asking: bool = False,
) -> Encoded:
    """Encode with the processor's own template; from an image that does not fit on, all is cut."""
    chat = encode_turns(turns, pictures, processor, where, asking=asking)
    lost = chat.region[max_length:].max(initial=-1) >= 0
    while len(chat.region) > max_length and (beyond := chat.region[max_length:]).max() >= 0:
        chat = cut_before(chat, int(beyond[beyond >= 0].min()), pictures, processor)
    ids, end = chat.ids[:max_length], min(max_length, len(chat.ids))
    learnt = torch.from_numpy(chat.answer[:end]) & (not lost)
    inputs = {k: v[0, :end] if k in PER_TOKEN else v for k, v in chat.inputs.items()}
    return Encoded(
        input_ids=ids,
        labels=ids.masked_fill(~learnt, IGNORE),
        image_mask=torch.from_numpy(chat.image[:end]),
        text_mask=torch.from_numpy(chat.text[:end]) & (not lost),
        pixel_values=inputs.pop(PIXELS, None),
        extra=inputs,
        way=way_of(processor),
    )


def collate(
    examples: Sequence[Encoded], pad_id: int, *, side: str = "right"
) -> dict[str, torch.Tensor]:
    """A batch of ``examples``, padded to the longest on the ``side`` right or left.

    ``input_ids``, ``labels``, ``attention_mask`` (int64), ``image_mask``, ``text_mask`` (bool) [B,
    T] and, if any row has an image, ``pixel_values`` float32 [sum of n, 3, H, W] in row order.
    Further inputs of the model are joined as its family needs it (``coincide.models.inputs``);
    raises ``UnlikeInputs`` for rows that cannot be one batch (:func:`batches_of`).
    """

    def pad(rows: list[torch.Tensor], value: int | bool) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(
            rows, batch_first=True, padding_value=value, padding_side=side
        )

    batch = {
        "input_ids": pad([e.input_ids for e in examples], pad_id),
        "labels": pad([e.labels for e in examples], IGNORE),
        "attention_mask": pad([torch.ones_like(e.input_ids) for e in examples], 0),
        "image_mask": pad([e.image_mask for e in examples], False),
        "text_mask": pad([e.text_mask for e in examples], False),
    }
    for name in dict.fromkeys(name for e in examples for name in e.extra if name in PER_TOKEN):
        blank = [e.extra.get(name, torch.zeros_like(e.input_ids)) for e in examples]
        batch[name] = pad(blank, 0)
    if seeing := [e for e in examples if e.sees]:
        batch |= joined([e.by_picture for e in seeing], seeing[0].way)
    return batch


def batches_of(examples: Sequence[Encoded]) -> list[list[int]]:
    """Places of ``examples`` that :func:`collate` can join, group by group; mostly one."""
    return groups([(e.way, e.by_picture) for e in examples])


def model_inputs(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The entries of a collated batch that the model's forward takes, ``labels`` included."""
    return {name: value for name, value in batch.items() if name not in OURS}


def length_of(example: Example) -> int:
    """LLaVA's ``modality_lengths``: number of words in the conversation, negative if text-only."""
    words = sum(len(turn.text.split()) for turn in example.turns)
    return words if example.images else -words


def image_tokens(processor: Any, height: int, width: int) -> int:
    """Number of tokens of an image of ``height`` x ``width`` pixels, as ``LlavaProcessor``
    counts.
    """
    patches = (height // processor.patch_size) * (width // processor.patch_size)
    dropped = processor.vision_feature_select_strategy == "default"
    return patches + processor.num_additional_image_tokens - dropped


def picture(example: Example, dataset: Dataset, name: str, processor: Any) -> Image:
    """The image ``name`` of ``example``; a blank one if it is unreadable and the policy says so."""
    from PIL import Image

    try:
        return shrink_large(load_image(dataset.image_root, name), processor)
    except BadImage as error:
        if example.row not in dataset.blank_images:
            raise type(error)(f"row {example.row}: {error}") from error
    mean = getattr(processor.image_processor, "image_mean", None) or (0.5, 0.5, 0.5)
    return Image.new("RGB", (64, 64), tuple(int(255 * m) for m in mean))


def _tokenize(
    segments: Sequence[Segment],
    opening: int,
    processor: Any,
    template: Template,
    widths: Sequence[int],
) -> _Tokens:
    """Tokens of the text, with every placeholder expanded to its image's tokens."""
    tokenizer = processor.tokenizer
    if tokenizer.convert_tokens_to_ids(template.end) in (None, tokenizer.unk_token_id):
        raise UserError(
            f"template {template.name!r} ends answers with {template.end!r}, which is no token of "
            "this model's tokenizer. Choose the model's own template."
        )
    # per character whether it belongs to an answer; sums tell it for any span
    is_answer = np.concatenate([np.full(len(s.text), s.answer) for s in segments])
    answers_before = np.concatenate([[0], np.cumsum(is_answer)])
    # BOS once, at the start
    bos = tokenizer("").input_ids[:1] if tokenizer.bos_token_id is not None else []
    tokens = _Tokens(list(bos), [-1] * len(bos), [False] * len(bos), [False] * len(bos))
    for number, (start, piece) in enumerate(_pieces("".join(s.text for s in segments))):
        # every piece but the first follows an image: its tokens
        if number:
            width = widths[number - 1]
            tokens.ids += [processor.image_token_id] * width
            tokens.image += [number - 1] * width
            tokens.answer += [False] * width
            tokens.text += [False] * width
        if not piece:
            continue
        # the piece as a whole, with the character positions of its tokens
        found = tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True)
        spans = start + np.asarray(found["offset_mapping"], dtype=np.int64).reshape(-1, 2)
        tokens.ids += found["input_ids"]
        tokens.image += [-1] * len(spans)
        # a token with at least one character of an answer is learnt
        tokens.answer += (answers_before[spans[:, 1]] > answers_before[spans[:, 0]]).tolist()
        # text after the first image; without images, after the system prompt
        after = spans[:, 1] > opening if number or not widths else np.zeros(len(spans), bool)
        tokens.text += after.tolist()
    return tokens


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """The texts between placeholders, each with its starting character."""
    start = 0
    for piece in text.split(IMAGE):
        yield start, piece
        start += len(piece) + len(IMAGE)


def _cut(tokens: _Tokens, max_length: int, pixels: torch.Tensor | None) -> Encoded:
    """The first ``max_length`` tokens, without splitting an image."""
    end = min(max_length, len(tokens.ids))
    images = tokens.image
    torn = end < len(images) and images[end] >= 0 and images[end] == images[end - 1]
    if torn:
        end = images.index(images[end])
    ids = torch.tensor(tokens.ids[:end], dtype=torch.int64)
    image = torch.tensor(images[:end], dtype=torch.int64)
    answer = torch.tensor(tokens.answer[:end], dtype=torch.bool)
    text = torch.tensor(tokens.text[:end], dtype=torch.bool)
    whole = len(image[image >= 0].unique())
    lost = pixels is not None and whole < len(pixels)
    return Encoded(
        input_ids=ids,
        labels=torch.full_like(ids, IGNORE) if lost else ids.masked_fill(~answer, IGNORE),
        image_mask=image >= 0,
        text_mask=torch.zeros_like(text) if lost else text,
        pixel_values=(pixels[:whole] if lost else pixels) if pixels is not None and whole else None,
    )
