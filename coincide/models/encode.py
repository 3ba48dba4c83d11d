"""Examples -> token ids, labels and masks; the one place where text meets the tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from coincide.data.images import load_image
from coincide.models.template import IMAGE, Segment, Template, render
from coincide.schema import Dataset, Example

IGNORE = -100


@dataclass(frozen=True)
class Encoded:
    """One example of T tokens."""

    input_ids: torch.Tensor
    """int64 [T], each image placeholder repeated to the number of its visual tokens."""
    labels: torch.Tensor
    """int64 [T], -100 off the answers; not shifted."""
    image_mask: torch.Tensor
    """bool [T], visual tokens."""
    text_mask: torch.Tensor
    """bool [T], tokens after the system prompt and after the first image that are not visual."""
    pixel_values: torch.Tensor | None
    """float32 [images, 3, H, W], or None for a text-only example."""


def encode(
    example: Example, dataset: Dataset, processor: Any, template: Template, max_length: int
) -> Encoded | None:
    """Encode one example, cut on the right at ``max_length`` tokens.

    Returns None when the cut goes through an image: such a row cannot be fed to the model.
    """
    pixels = _pixels(example, dataset, processor)
    visual = _visual_tokens(processor, pixels)
    ids, answer, system = _tokens(render(template, example.turns), processor, visual)
    image = ids == _image_id(processor)
    if image[max_length:].any():
        return None
    ids, answer, system, image = (part[:max_length] for part in (ids, answer, system, image))
    text = ~image & ~system
    if image.any():
        text[: int(np.argmax(image))] = False
    return Encoded(
        torch.from_numpy(ids),
        torch.from_numpy(np.where(answer, ids, IGNORE)),
        torch.from_numpy(image),
        torch.from_numpy(text),
        pixels,
    )


def collate(rows: Sequence[Encoded], pad_id: int) -> dict[str, torch.Tensor]:
    """Right-padded batch: ``input_ids``, ``labels``, ``attention_mask``, both masks, and
    ``pixel_values`` [images in the batch, 3, H, W] when there are any.
    """  # fmt: skip
    def padded(parts: list[torch.Tensor], value: float) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=value)

    batch = {
        "input_ids": padded([row.input_ids for row in rows], pad_id),
        "labels": padded([row.labels for row in rows], IGNORE),
        "attention_mask": padded([torch.ones_like(row.input_ids) for row in rows], 0),
        "image_mask": padded([row.image_mask for row in rows], False),
        "text_mask": padded([row.text_mask for row in rows], False),
    }
    pixels = [row.pixel_values for row in rows if row.pixel_values is not None]
    if pixels:
        batch["pixel_values"] = torch.cat(pixels)
    return batch


def length_of(example: Example) -> int:
    """LLaVA's ``modality_lengths``: whitespace word count, negative for text-only examples."""
    words = sum(len(turn.text.split()) for turn in example.turns)
    return words if example.images else -words


def _pixels(example: Example, dataset: Dataset, processor: Any) -> torch.Tensor | None:
    if not example.images:
        return None
    if example.row in dataset.blank_images:
        images = [_blank(processor) for _ in example.images]
    else:
        images = [load_image(dataset.image_root, name) for name in example.images]
    return processor.image_processor(images, return_tensors="pt")["pixel_values"]


def _blank(processor: Any) -> Any:
    """A square of the mean colour, which the processor maps to zeros."""
    from PIL import Image

    mean = tuple(round(255 * value) for value in processor.image_processor.image_mean)
    return Image.new("RGB", (64, 64), mean)


def _visual_tokens(processor: Any, pixels: torch.Tensor | None) -> int:
    """Visual tokens per image, as :class:`transformers.LlavaProcessor` counts them."""
    if pixels is None:
        return 0
    height, width = pixels.shape[-2:]
    patches = (height // processor.patch_size) * (width // processor.patch_size)
    cls_dropped = processor.vision_feature_select_strategy == "default"
    return patches + processor.num_additional_image_tokens - int(cls_dropped)


def _image_id(processor: Any) -> int:
    return processor.tokenizer.convert_tokens_to_ids(processor.image_token)


def _tokens(
    segments: Sequence[Segment], processor: Any, visual: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids int64 [T], and which of them are answer and which are system prompt, bool [T] each.

    The text is cut at the placeholders and each chunk tokenised whole, as LLaVA does; a token
    that straddles a border (the space before an answer) belongs to the segment it ends in.
    """
    text = "".join(segment.text for segment in segments)
    ends = np.cumsum([len(segment.text) for segment in segments])
    tokenizer = processor.tokenizer
    start = tokenizer("").input_ids[:1]
    bos = start if start and start[0] == tokenizer.bos_token_id else []
    ids, last = [*bos], [0] * len(bos)
    position = 0
    for number, chunk in enumerate(text.split(IMAGE)):
        if number:
            ids += [_image_id(processor)] * visual
            last += [position] * visual
            position += len(IMAGE)
        found = tokenizer(chunk, add_special_tokens=False, return_offsets_mapping=True)
        ids += found["input_ids"]
        last += [position + max(end - 1, 0) for _, end in found["offset_mapping"]]
        position += len(chunk)
    owner = np.searchsorted(ends, np.asarray(last, dtype=np.int64), side="right")
    owner = np.minimum(owner, len(segments) - 1)
    answer = np.array([segment.answer for segment in segments])[owner]
    system = np.array([segment.system for segment in segments])[owner]
    if bos:
        system[0] = True
    return np.asarray(ids, dtype=np.int64), answer, system
