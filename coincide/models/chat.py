"""Encode examples with a model's own chat template: any image-text model that transformers knows.

The text is rendered by the processor's template; the processor itself expands image tokens and
makes all further inputs (``image_grid_thw``, ``pixel_attention_mask``, ...). The positions of
answers are found as character positions: from the template's ``{% generation %}`` marks or, without
them, from the difference between renderings that end before and after each answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from coincide.models.template import IMAGE, image_first
from coincide.schema import Turn, UserError

if TYPE_CHECKING:
    from PIL.Image import Image

ROLES = {"human": "user", "gpt": "assistant"}
MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
Span = tuple[int, int]
"""First character, and the one after the last."""


class ConversationRefused(UserError):
    """A conversation that the model's processor or template does not accept."""


@dataclass(frozen=True)
class Chat:
    """A conversation as encoded by its processor. T tokens, n images."""

    ids: torch.Tensor
    """int64 [T], token ids."""
    answer: np.ndarray
    """bool [T]: tokens of answers that are to be learnt."""
    image: np.ndarray
    """bool [T]: positions of image features."""
    region: np.ndarray
    """int64 [T]: number of the image that the token belongs to, markers included; -1 for text."""
    text: np.ndarray
    """bool [T]: text after the first image; without images, text after the system prompt."""
    inputs: Mapping[str, torch.Tensor]
    """All other inputs of the model: per token [1, T], or per image."""
    images: tuple[Span, ...]
    """Position of each placeholder in ``rendered``."""
    rendered: str
    """The text that the template gives."""


def encode_turns(
    turns: Sequence[Turn], pictures: Sequence[Image], processor: Any, where: str, *, asking: bool
) -> Chat:
    """Encode ``turns`` with their ``pictures``.

    With ``asking`` the text ends where the model is to answer. Raises :class:`ConversationRefused`,
    its text beginning with ``where``, for a conversation that the chat template or the processor
    does not accept.
    """
    written = sum(turn.text.count(IMAGE) for turn in turns)
    if written != len(pictures):
        raise UserError(f"{where}: {written} {IMAGE} placeholders for {len(pictures)} images.")
    try:
        messages = messages_of(turns)
        rendered = rendering(processor, messages, asking=asking)
        spans = [] if asking else answer_spans(processor, turns, messages, rendered)
        opening = 0 if pictures else _opening(processor, rendered)
        return _tokenize(processor, rendered, pictures, spans, opening)
    except (ValueError, TypeError, UserError, _template_error()) as error:
        raise ConversationRefused(
            f"{where}, template chat: {error}" if where else str(error)
        ) from error


def cut_before(chat: Chat, image: int, pictures: Sequence[Image], processor: Any) -> Chat:
    """``chat`` cut before the placeholder of ``image``, with only the images before it."""
    text = chat.rendered[: chat.images[image][0]]
    return _tokenize(processor, text, pictures[:image], [], 0)


def messages_of(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Messages in transformers' format: parts of text and image in the order of the placeholders.

    A single placeholder is moved to the front of its turn, as in the other templates; line breaks
    beside a placeholder, and white space between two, are left to the template.
    """
    messages = []
    for turn in turns:
        parts: list[dict[str, Any]] = []
        for number, piece in enumerate(image_first(turn.text).split(IMAGE)):
            if number:
                parts.append({"type": "image"})
            if IMAGE not in turn.text:
                parts.append({"type": "text", "text": piece})
            elif piece.strip():
                parts.append({"type": "text", "text": piece.strip("\n")})
        messages.append({"role": ROLES[turn.role], "content": parts})
    return messages


def answer_spans(
    processor: Any, turns: Sequence[Turn], messages: Sequence[Any], rendered: str
) -> list[Span]:
    """Positions of the answers in ``rendered``, each including the token that ends it.

    An empty answer has none, nor has one that is marked as not to be learnt.
    Raises UserError if the template does not tell which of several answers is which.
    """
    answers = [i for i, turn in enumerate(turns) if turn.role == "gpt"]
    if MARKS.search(_template(processor)):
        spans = _marked(processor, messages)
    else:
        spans = [_difference(processor, messages, i, rendered) for i in answers]
    if len(spans) == len(answers):
        kept = [turns[i].text and turns[i].learn for i in answers]
        spans = [span for span, learnt in zip(spans, kept, strict=True) if learnt]
    elif not all(turns[i].learn for i in answers):
        raise UserError(
            f"the chat template marks {len(spans)} stretches as generated and there are "
            f"{len(answers)} answers, so the one that is not to be learnt cannot be told. Give it "
            "{% generation %} marks around the text of each answer of the assistant."
        )
    return spans


def end_ids(processor: Any, model: Any) -> list[int]:
    """Token ids at which generation stops: the checkpoint's own, and the tokenizer's end token.

    Raises UserError if there is none.
    """
    told = getattr(model.generation_config, "eos_token_id", None)
    several = told if isinstance(told, (list, tuple)) else [told]
    found = {int(i) for i in (*several, processor.tokenizer.eos_token_id) if i is not None}
    if not found:
        raise UserError(
            "neither generation_config.json nor the tokenizer names an end token (eos_token_id); "
            "without one an answer never ends. Add it to generation_config.json."
        )
    return sorted(found)


def _template(processor: Any) -> str:
    found = processor.chat_template
    if isinstance(found, Mapping):
        found = found.get("default")
    if not found:
        raise UserError(
            f"the {type(processor).__name__} of this model has no chat template "
            "(chat_template.jinja). Save it in the model's folder; for a LLaVA of Vicuna's set "
            "target.template=vicuna_v1."
        )
    return str(found)


def rendering(processor: Any, messages: Sequence[Any], *, asking: bool = False) -> str:
    """The text of ``messages`` by the template; with ``asking`` it ends where an answer begins."""
    _template(processor)
    return str(
        processor.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=asking)
    )


def _marked(processor: Any, messages: Sequence[Any]) -> list[Span]:
    """The spans between the template's marks, each with an end token that directly follows."""
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered: Any = render_jinja_template(
        conversations=[list(messages)],
        chat_template=_template(processor),
        return_assistant_tokens_mask=True,
        **processor.tokenizer.special_tokens_map,
    )
    texts, spans = rendered
    ending = processor.tokenizer.eos_token
    return [
        (start, end + len(ending) if ending and texts[0].startswith(ending, end) else end)
        for start, end in spans[0]
    ]


def _difference(processor: Any, messages: Sequence[Any], turn: int, rendered: str) -> Span:
    """The span of what ``turn`` adds to the text at which the model is asked to answer."""
    asked = rendering(processor, messages[:turn], asking=True)
    answered = rendering(processor, messages[: turn + 1])
    if not (answered.startswith(asked) and rendered.startswith(answered)):
        raise UserError(
            "the chat template writes a turn otherwise once more turns follow, so the answers "
            "cannot be told from it. Give it {% generation %} marks around the assistant's text."
        )
    added = answered[len(asked) :]
    ends = [added.rfind(t) + len(t) for t in processor.tokenizer.all_special_tokens if t in added]
    last = max(ends, default=len(added))
    return len(asked), len(asked) + (last if not added[last:].strip() else len(added))


def _opening(processor: Any, rendered: str) -> int:
    """Number of characters before the first turn's content: where two conversations begin to
    differ.
    """
    probes = [rendering(processor, messages_of([Turn("human", text)])) for text in ("a", "b")]
    together = enumerate(zip(*probes, rendered, strict=False))
    return next((i for i, letters in together if len(set(letters)) > 1), 0)


def _tokenize(
    processor: Any,
    rendered: str,
    pictures: Sequence[Image],
    spans: Sequence[Span],
    opening: int,
) -> Chat:
    # a template may have written BOS already: the tokenizer must not add a second one
    tokenizer = processor.tokenizer
    begun = tokenizer.bos_token is not None and rendered.startswith(tokenizer.bos_token)
    made = processor(
        text=[rendered],
        images=[list(pictures)] if pictures else None,
        return_offsets_mapping=True,
        **({"return_text_replacement_offsets": True} if pictures else {}),
        **({"add_special_tokens": False} if begun else {}),
    )
    # first and last character of each token, and where the processor expanded placeholders
    offsets = np.asarray(made.pop("offset_mapping")[0], dtype=np.int64).reshape(-1, 2)
    replaced = made.pop("text_replacement_offsets", None)
    images = replaced[0] if pictures and replaced else []
    if len(images) != len(pictures):
        raise UserError(
            f"{type(processor).__name__} does not tell where it puts images (text_replacement_"
            "offsets), so the answers cannot be found in its tokens. Choose a model of another "
            "family: Qwen2.5-VL, Idefics3 and SmolVLM, LLaVA and LLaVA-OneVision do."
        )
    made.convert_to_tensors("pt")
    made.pop("attention_mask")
    # tokens of each image, with the markers around it
    region = np.full(len(offsets), -1)
    for number, image in enumerate(images):
        region[_overlap(offsets, image["new_span"])] = number
    # answers: their characters in the rendered text, moved by the expansions before them
    answer = np.zeros(len(offsets), dtype=bool)
    for span in spans:
        answer |= _overlap(offsets, (_moved(span[0], images), _moved(span[1], images)))
    # text counts after the first image, or after the system prompt where there is none
    after = images[0]["new_span"][1] if images else opening
    ids = made.pop("input_ids")[0]
    return Chat(
        ids=ids,
        image=(region >= 0) & (ids.numpy() == _feature_token(processor)),
        answer=answer,
        region=region,
        text=(region < 0) & (offsets[:, 1] > max(after, 0)) & (offsets[:, 1] > offsets[:, 0]),
        inputs=dict(made),
        images=tuple(tuple(image["span"]) for image in images),
        rendered=rendered,
    )


def _feature_token(processor: Any) -> int:
    """The id of the tokens that stand for image features.

    Not always the placeholder's (Gemma 3).
    """
    known = getattr(processor.tokenizer, "image_token_id", None)
    return int(processor.image_token_id if known is None else known)


def _moved(place: int, images: Sequence[Mapping[str, Any]]) -> int:
    """Position ``place`` of the rendered text in the text with expanded placeholders."""
    before = [image for image in images if image["span"][1] <= place]
    return place + (before[-1]["new_span"][1] - before[-1]["span"][1] if before else 0)


def _overlap(offsets: np.ndarray, span: Span) -> np.ndarray:
    """bool [T]: tokens that share a character with ``span``."""
    return (offsets[:, 0] < span[1]) & (offsets[:, 1] > span[0])


def _template_error() -> type[Exception]:
    from jinja2.exceptions import TemplateError

    return TemplateError
