"""Encode examples with a model's own chat template: any image-text model that transformers knows.

The text is rendered by the processor's template; the processor itself expands image tokens and
makes all further inputs (``image_grid_thw``, ``pixel_attention_mask``, ...). The positions of
answers (:mod:`coincide.models.answers`) are followed from the rendered text into the text that the
processor really tokenised, which some change before: a beginning in front, a line break behind.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from coincide.models.answers import Span, answer_ending, rendered_answers, rendering
from coincide.models.inputs import FEATURE_TOKENS, unknown
from coincide.models.template import IMAGE, image_first
from coincide.schema import Turn, UserError

if TYPE_CHECKING:
    from PIL.Image import Image

FEATURE_IDS = ("image_token_id", "image_token_index", "image_patch_id")
"""Where a model's configuration says which tokens receive features."""
ROLES = {"human": "user", "gpt": "assistant"}


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
        spans: list[Span] = []
        if asking:
            rendered = rendering(processor, messages, asking=True)
        else:
            rendered, spans = rendered_answers(processor, turns, messages)
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


def end_ids(processor: Any, model: Any) -> list[int]:
    """Token ids at which generation stops: the checkpoint's own, the tokenizer's end token, and the
    token with which the chat template ends an answer, which is what finetuning teaches.

    Raises UserError if there is none.
    """
    told = getattr(model.generation_config, "eos_token_id", None)
    several = told if isinstance(told, (list, tuple)) else [told]
    tokenizer = processor.tokenizer
    ending = answer_ending(processor)
    own = tokenizer.convert_tokens_to_ids(ending) if ending else None
    found = {int(i) for i in (*several, tokenizer.eos_token_id, own) if i is not None}
    if not found:
        raise UserError(
            "neither generation_config.json nor the tokenizer names an end token (eos_token_id); "
            "without one an answer never ends. Add it to generation_config.json."
        )
    return sorted(found)


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
    made, read = _processed(processor, rendered, pictures)
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
    for name in ("attention_mask", "labels"):  # targets are the answers, whatever it suggests
        made.pop(name, None)
    ids = made.pop("input_ids")[0]
    inputs = {k: _typed(v) for k, v in made.items() if v is not None}
    if names := unknown(list(inputs), processor):
        raise UserError(
            f"{type(processor).__name__} gives the input {names[0]}, of which it does not say "
            "whether it counts by token or by picture. Choose a model of a family that "
            "docs/MODELS.md lists as right."
        )
    places = _Places.followed(rendered, read, images, processor)
    # tokens of each image, with the markers around it
    region = np.full(len(offsets), -1)
    for number, image in enumerate(images):
        region[_overlap(offsets, image["new_span"])] = number
    answer = np.zeros(len(offsets), dtype=bool)
    for start, end in spans:
        answer |= _overlap(offsets, (places.moved(start, ends=False), places.moved(end, ends=True)))
    # text counts after the first image, or after the system prompt where there is none
    after = images[0]["new_span"][1] if images else places.moved(opening, ends=False)
    return Chat(
        ids=ids,
        image=(region >= 0) & (ids.numpy() == feature_token(processor)),
        answer=answer,
        region=region,
        text=(region < 0) & (offsets[:, 1] > max(after, 0)) & (offsets[:, 1] > offsets[:, 0]),
        inputs=inputs,
        images=places.images,
        rendered=rendered,
    )


def _typed(value: torch.Tensor) -> torch.Tensor:
    """Half precision as float32, which numpy has as well; the model casts it to its own."""
    return value.float() if value.dtype == torch.bfloat16 else value


class _Listening:
    """A tokenizer that keeps the text that it is given."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.read = ""

    def __call__(self, text: Any, *args: Any, **options: Any) -> Any:
        self.read = text if isinstance(text, str) else text[0]
        return self._tokenizer(text, *args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)


def _processed(processor: Any, rendered: str, pictures: Sequence[Image]) -> tuple[Any, str]:
    """What the processor makes of the text, and the text that it tokenised."""
    tokenizer = processor.tokenizer
    # a template may have written BOS already: the tokenizer must not add a second one
    begun = tokenizer.bos_token is not None and rendered.startswith(tokenizer.bos_token)
    listening = _Listening(tokenizer)
    own = copy.copy(processor)
    own.tokenizer = listening
    made = own(
        text=[rendered],
        images=[list(pictures)] if pictures else None,
        return_offsets_mapping=True,
        return_tensors="pt",
        **({"return_text_replacement_offsets": True} if pictures else {}),
        **({"add_special_tokens": False} if begun else {}),
    )
    return made, listening.read


@dataclass(frozen=True)
class _Places:
    """Pieces of the rendered text, between pictures, in the text that was tokenised."""

    starts: tuple[int, ...]
    """Where each piece begins in the rendered text."""
    shifts: tuple[int, ...]
    """What brings a position in the piece to the tokenised text."""
    images: tuple[Span, ...]
    """Placeholders in the rendered text."""

    @classmethod
    def followed(
        cls, rendered: str, read: str, images: Sequence[Mapping[str, Any]], processor: Any
    ) -> _Places:
        """Find every piece; raises UserError where the processor changed the text within one."""
        signs = [image["text"] for image in images]
        starts, spans, place = [0], [], 0
        for sign in signs:
            at = rendered.find(sign, place)
            place = at + len(sign)
            spans.append((at, place))
            starts.append(place)
        pieces = [
            rendered[start:end]
            for start, end in zip(starts, [*(at for at, _ in spans), len(rendered)], strict=True)
        ]
        edges = [0, *(edge for image in images for edge in image["new_span"]), len(read)]
        shifts = []
        for number, piece in enumerate(pieces):
            begin, end = edges[2 * number : 2 * number + 2]
            found = read[begin:end]
            at = found.find(piece)
            if at < 0 or (piece and found.find(piece, at + 1) >= 0):
                raise UserError(
                    f"{type(processor).__name__} changes the text of a conversation before it is "
                    f"tokenised ({piece[:40]!r} to {found[:40]!r}), so the answers cannot be found "
                    "in its tokens. Choose a model of another family (docs/MODELS.md)."
                )
            shifts.append(begin + at - starts[number])
        return cls(tuple(starts), tuple(shifts), tuple(spans))

    def moved(self, place: int, *, ends: bool) -> int:
        """Position ``place`` of the rendered text in the tokenised text; ``ends``: it is the place
        behind the last character of a span.
        """
        begun = [start < place if ends else start <= place for start in self.starts]
        return place + self.shifts[max(sum(begun) - 1, 0)]


def check_feature_token(processor: Any, config: Any) -> None:
    """Raise UserError if the model puts features at other tokens than those of the processor."""
    told = {
        int(found) for name in FEATURE_IDS if (found := getattr(config, name, None)) is not None
    }
    if told and feature_token(processor) not in told:
        raise UserError(
            f"{type(processor).__name__} marks pictures with token {feature_token(processor)}, and "
            f"the model's config.json puts their features at {', '.join(map(str, sorted(told)))}"
            ". Choose a model of a family that docs/MODELS.md lists as right."
        )


def feature_token(processor: Any) -> int:
    """The id of the tokens that stand for image features.

    Not always the placeholder's (Gemma 3, Molmo 2).
    """
    own = FEATURE_TOKENS.get(type(processor).__name__)
    if own is not None:
        return int(processor.tokenizer.convert_tokens_to_ids(own))
    known = getattr(processor.tokenizer, "image_token_id", None)
    return int(processor.image_token_id if known is None else known)


def _overlap(offsets: np.ndarray, span: Span) -> np.ndarray:
    """bool [T]: tokens that share a character with ``span``."""
    return (offsets[:, 0] < span[1]) & (offsets[:, 1] > span[0])


def _template_error() -> type[Exception]:
    from jinja2.exceptions import TemplateError

    return TemplateError
