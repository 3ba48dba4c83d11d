"""Check whether a model can read a row and learn from it, without decoding its pictures.

The text is the row's own; each picture is replaced by a blank one of the same size, which is
processed once for each set of sizes. Rows close to a limit are encoded completely with the blank
pictures (:mod:`coincide.models.encode`), so the verdict is the same as in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from coincide.models import chat
from coincide.models.answers import rendered_answers
from coincide.models.encode import IGNORE, Encoded, encode_blank, image_tokens, pixels_of
from coincide.models.learnable import EMPTY as EMPTY
from coincide.models.learnable import NOT_LEARNT as NOT_LEARNT
from coincide.models.learnable import ProbeVerdict as ProbeVerdict
from coincide.models.learnable import nothing_to_learn as nothing_to_learn
from coincide.models.template import IMAGE, TEMPLATES, render
from coincide.schema import Turn, UserError

if TYPE_CHECKING:
    from PIL.Image import Image

ImageSize = tuple[int, int]
"""Width and height in pixels."""
REFUSED_PICTURE = "picture that the model's processor refuses"
REFUSED_TEXT = "text that the model's template or processor refuses"
CUT = "every answer is cut off by max_length"
CUT_AT_IMAGE = "pictures do not fit into max_length"
LONG_PICTURES = "pictures that take more tokens than max_length"
NOMINAL: ImageSize = (64, 64)
"""Used for every picture if the processor brings all pictures to one size."""


@dataclass
class Prober:
    """Checks rows for one model's processor; remembers what pictures of each size cost."""

    processor: Any
    template: str
    max_length: int
    _costs: dict[tuple[ImageSize, ...], int | ProbeVerdict] = field(default_factory=dict)
    """Picture sizes -> tokens that they take together, or why they are refused."""
    _reserved: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self._reserved = reserved_tokens(self.processor)

    def __call__(self, turns: Sequence[Turn], sizes: Sequence[ImageSize]) -> ProbeVerdict | None:
        """The verdict on a row with pictures of ``sizes``; None if it can be used."""
        if fault := nothing_to_learn(turns):
            return fault
        seen = tuple(NOMINAL for _ in sizes) if one_size(self.processor) else tuple(sizes)
        cost = self._cost(seen)
        if isinstance(cost, ProbeVerdict):
            return cost
        if cost > self.max_length:
            told = f"{len(seen)} of them take {cost:,} tokens, max_length is {self.max_length:,}"
            return ProbeVerdict(True, LONG_PICTURES, told)
        return self._judge(turns, seen, cost)

    def _cost(self, sizes: tuple[ImageSize, ...]) -> int | ProbeVerdict:
        if sizes not in self._costs:
            try:
                self._costs[sizes] = self._tokens(sizes)
            except (ValueError, UserError) as error:
                self._costs[sizes] = ProbeVerdict(True, REFUSED_PICTURE, _said(error))
        return self._costs[sizes]

    def _tokens(self, sizes: tuple[ImageSize, ...]) -> int:
        if not TEMPLATES[self.template].of_processor:
            pixels = (pixels_of([blank(size)], self.processor) for size in sizes)
            return sum(image_tokens(self.processor, *found.shape[-2:]) for found in pixels)
        plain = (Turn("human", f"{IMAGE}\n" * len(sizes) + "a"), Turn("gpt", "b"))
        pictures = [blank(size) for size in sizes]
        found = chat.encode_turns(plain, pictures, self.processor, "", asking=False)
        return int((found.region >= 0).sum())

    def _judge(
        self, turns: Sequence[Turn], sizes: tuple[ImageSize, ...], cost: int
    ) -> ProbeVerdict | None:
        try:
            if self._surely_fits(turns, cost):
                return None
            found = self._encoded(turns, sizes)
        except (ValueError, UserError) as error:
            return ProbeVerdict(True, REFUSED_TEXT, _said(error))
        if bool((found.labels[1:] != IGNORE).any()):
            return None
        kind = CUT_AT_IMAGE if sizes and not bool(found.text_mask.any()) else CUT
        return ProbeVerdict(False, kind, f"max_length {self.max_length:,}")

    def _surely_fits(self, turns: Sequence[Turn], cost: int) -> bool:
        """Whether the whole row is shorter than ``max_length``, judged by the length of its
        text.
        """
        template, tokenizer = TEMPLATES[self.template], self.processor.tokenizer
        if not template.of_processor:
            segments = render(template, turns)
            if not any(segment.answer for segment in segments):
                return False
            text = "".join(segment.text for segment in segments)
        else:
            if any(token in turn.text for turn in turns for token in self._reserved):
                return False
            messages = chat.messages_of(turns)
            text, spans = rendered_answers(self.processor, turns, messages)
            if not spans:
                return False
        # a placeholder that is cut out may part a token in two; some processors add BOS
        pieces = 2 * text.count(IMAGE) + 4
        return len(tokenizer(text).input_ids) + cost + pieces <= self.max_length

    def _encoded(self, turns: Sequence[Turn], sizes: tuple[ImageSize, ...]) -> Encoded:
        template = TEMPLATES[self.template]
        pictures = [blank(size) for size in sizes]
        return encode_blank(turns, pictures, self.processor, template, self.max_length)


def reserved_tokens(processor: Any) -> frozenset[str]:
    """The processor's special tokens, which have their meaning wherever they are written."""
    own = (getattr(processor, f"{kind}_token", None) for kind in ("image", "video", "audio"))
    added = processor.tokenizer.added_tokens_decoder.values()
    special = (str(token) for token in (*added, *own) if token is not None)
    return frozenset(special) - {IMAGE, ""}


def one_size(processor: Any) -> bool:
    """Whether the image processor brings every picture to the same size."""
    images = processor.image_processor
    if getattr(images, "do_center_crop", False) and getattr(images, "crop_size", None):
        return True
    size = getattr(images, "size", None) or {}
    fixed = _has(size, "height") and _has(size, "width")
    tiling = ("image_grid_pinpoints", "do_image_splitting", "do_pan_and_scan", "crop_to_patches")
    tiled = any(getattr(images, name, None) for name in tiling)
    return bool(getattr(images, "do_resize", False) and fixed and not tiled)


def _has(size: Any, name: str) -> bool:
    found = size.get(name) if hasattr(size, "get") else getattr(size, name, None)
    return found is not None


def blank(size: ImageSize) -> Image:
    """A black picture of ``size``."""
    from PIL import Image

    return Image.new("RGB", size)


def check_model(processor: Any, template: str) -> None:
    """Raise :class:`UserError` if the processor cannot read even a plain row, or one with a
    picture.
    """
    for turns, pictures in (
        ((Turn("human", "a"), Turn("gpt", "b")), []),
        ((Turn("human", f"{IMAGE}\na"), Turn("gpt", "b")), [blank(NOMINAL)]),
    ):
        encode_blank(turns, pictures, processor, TEMPLATES[template], 1 << 20)


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
