"""Conversation templates: from turns to text, with the answers marked.

The text equals that of LLaVA's ``conversation.py`` (``SeparatorStyle.TWO``) and
``preprocess_multimodal`` (haotian-liu/LLaVA, commit c121f04), to the last space. Models with a chat
template of their own use ``chat``, see ``coincide.models.chat``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coincide.schema import Turn

IMAGE = "<image>"


@dataclass(frozen=True)
class Template:
    """A conversation format like ``SYSTEM USER: question ASSISTANT: answer</s>USER: ...``."""

    name: str
    system: str
    """System prompt; may be empty."""
    user: str = "USER"
    assistant: str = "ASSISTANT"
    sep: str = " "
    """Text after the system prompt and after each question."""
    end: str = "</s>"
    """Text after each answer: the token at which generation stops."""
    of_processor: bool = False
    """Use the chat template of the model's processor instead of the fields above."""

    @property
    def opening(self) -> str:
        """The text before the first turn."""
        return self.system + self.sep if self.system else ""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the rendered text. ``answer``: it is to be learnt, end token included."""

    text: str
    answer: bool


SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
TEMPLATES = {
    template.name: template
    for template in (
        Template("vicuna_v1", SYSTEM),
        Template("phi", SYSTEM, end="<|endoftext|>"),  # TinyLLaVABench's conv_phi_v0
        Template("tiny", ""),
        Template("chat", "", of_processor=True),
    )
}


def encoding_of(template: str) -> str:
    """What a key says of the template ``template``: its name, and a number where rows are encoded
    otherwise than they once were (``chat``: ends are taught, answers found in the tokenised text).
    """
    return f"{template} 2" if TEMPLATES[template].of_processor else template


def render(template: Template, turns: Sequence[Turn]) -> list[Segment]:
    """The whole conversation as segments; their joined texts are tokenised.

    The space before an answer belongs to the answer, as in LLaVA's label mask. An empty turn is
    only its role and a colon, so an empty answer leaves nothing to learn; nor does an answer that
    is marked as not to be learnt.
    """
    segments = [Segment(template.opening, False)] if template.opening else []
    for turn in turns:
        role = template.user if turn.role == "human" else template.assistant
        text = image_first(turn.text)
        segments.append(Segment(f"{role}:", False))
        if text and turn.role == "human":
            segments.append(Segment(f" {text}{template.sep}", False))
        elif text:
            segments.append(Segment(f" {text}{template.end}", turn.learn))
    return segments


def prompt(template: Template, turns: Sequence[Turn]) -> list[Segment]:
    """The text after which the model is to answer: it ends in ``ASSISTANT:``, without a space."""
    return [*render(template, turns), Segment(f"{template.assistant}:", False)]


def image_first(text: str) -> str:
    """Move a single ``<image>`` to the front of its turn, followed by a newline.

    Several placeholders in one turn are not moved, since their positions have a meaning.
    """
    if text.count(IMAGE) != 1:
        return text
    return f"{IMAGE}\n{text.replace(IMAGE, '').strip()}".strip()
