"""Variants of a row that the model reads besides the whole row: blind, masked and unasked.

``blind``: the row without its images. Their tokens are removed, so that positions close up, and all
other tokens stay; with a template of the processor (``chat``) the conversation is rendered without
the images, so that no marker of one remains. Answers that the whole row loses to ``max_length`` are
not scored either, so that both variants score the same tokens.

``masked``: the same with one position left free for each image, as if there were a token that
nothing attends to: the form of VisNec's released code. Only with templates of ours.

``unasked``: only the images as the question, and all answers that are to be learnt, joined by
blanks, as the answer. Without an image the question is empty.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from coincide.models.encode import IGNORE, Encoded, ImageCache, encode
from coincide.models.inputs import PER_TOKEN
from coincide.models.template import IMAGE, Template, image_first
from coincide.schema import Dataset, Example, Turn, UserError


def blind(
    whole: Encoded, example: Example, dataset: Dataset, processor: Any, template: Template,
    max_length: int,
) -> Encoded:  # fmt: skip
    """``example``, encoded as ``whole``, without its images; ``whole`` itself if it has none."""
    if not example.images:
        return whole
    if template.of_processor:
        text = replace(example, images=(), turns=tuple(map(_without_images, example.turns)))
        found = encode(text, dataset, processor, template, max_length)
        return _scored_at_most(found, int((whole.labels != IGNORE).sum()))
    kept = ~whole.image_mask
    return Encoded(
        input_ids=whole.input_ids[kept],
        labels=whole.labels[kept],
        image_mask=whole.image_mask[kept],
        text_mask=whole.text_mask[kept],
        pixel_values=None,
    )


def masked(
    whole: Encoded, example: Example, dataset: Dataset, processor: Any, template: Template,
    max_length: int,
) -> Encoded:  # fmt: skip
    """``example``, encoded as ``whole``, with a gap of one position in the place of each image.

    Raises :class:`UserError` with a template of the processor.
    """
    if template.of_processor:
        raise UserError(
            "images as one masked token each (method.image=masked) are LLaVA's way: template chat "
            "has none. Set method.image=removed."
        )
    found = blind(whole, example, dataset, processor, template, max_length)
    starts = torch.zeros_like(whole.image_mask)
    if example.images:
        width = int(whole.image_mask.sum()) // len(example.images)
        starts = whole.image_mask & ((torch.cumsum(whole.image_mask, dim=0) - 1) % width == 0)
    places = torch.cumsum(starts | ~whole.image_mask, dim=0) - 1
    return replace(found, extra={"position_ids": places[~whole.image_mask]})


def unasked(
    whole: Encoded, example: Example, dataset: Dataset, processor: Any, template: Template,
    max_length: int, cache: ImageCache,
) -> Encoded:  # fmt: skip
    """``example``, encoded as ``whole``, with its images and answers but without questions."""
    answers = [_text(turn) for turn in example.turns if turn.role == "gpt" and turn.learn]
    turns = (
        Turn("human", IMAGE * len(example.images)),
        Turn("gpt", " ".join(filter(None, answers))),
    )
    found = encode(replace(example, turns=turns), dataset, processor, template, max_length, cache)
    if found.pixel_values is None or whole.pixel_values is None:
        return found
    if found.pixel_values.shape != whole.pixel_values.shape:
        return found
    # the same images: one copy travels to the process that runs the model
    by_image = {n: whole.extra[n] if n not in PER_TOKEN else v for n, v in found.extra.items()}
    return replace(found, pixel_values=whole.pixel_values, extra=by_image)


def _without_images(turn: Turn) -> Turn:
    return replace(turn, text=_text(turn)) if IMAGE in turn.text else turn


def _text(turn: Turn) -> str:
    """The text of a turn without its image placeholders."""
    pieces = [piece.strip() for piece in image_first(turn.text).split(IMAGE)]
    return " ".join(filter(None, pieces)) if IMAGE in turn.text else turn.text


def _scored_at_most(encoded: Encoded, answers: int) -> Encoded:
    """``encoded`` with labels for only the first ``answers`` answer tokens."""
    number = torch.cumsum(encoded.labels != IGNORE, dim=0)
    return replace(encoded, labels=encoded.labels.masked_fill(number > answers, IGNORE))
