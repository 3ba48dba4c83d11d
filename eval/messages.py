"""Convert a benchmark document, in lmms-eval's chat messages, to turns and pictures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from coincide.data.images import to_rgb
from coincide.models.template import IMAGE
from coincide.schema import Role, Turn, UserError

if TYPE_CHECKING:
    from PIL.Image import Image

ROLES: dict[str, Role] = {"user": "human", "assistant": "gpt"}


def turns_and_pictures(
    messages: Sequence[Mapping[str, Any]],
) -> tuple[list[Turn], list[Image]]:
    """The conversation, with one ``<image>`` per picture in its texts, and the pictures in that
    order.

    If a message's text has as many ``<image>`` placeholders as the message has pictures, they stay
    where the task put them; any other number of placeholders is removed and one per picture put in
    order.
    Raises UserError for a role that is neither user nor assistant.
    """
    turns, pictures = [], []
    for message in messages:
        role = ROLES.get(message["role"])
        if role is None:
            raise UserError(
                f"a message has the role {message['role']!r}; expected {' or '.join(ROLES)}."
            )
        text, found = _flat(message["content"])
        turns.append(Turn(role, text))
        pictures += found
    return turns, pictures


def _flat(content: Any) -> tuple[str, list[Image]]:
    """One message's text with placeholders, and its pictures."""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    pictures = [_picture(part) for part in parts if part["type"] != "text"]
    written = "".join(part["text"] for part in parts if part["type"] == "text")
    if pictures and written.count(IMAGE) == len(pictures):
        return written, pictures
    text, last = "", "text"
    for part in parts:
        if part["type"] == "text":
            piece = part["text"].replace(IMAGE, "")
            text += f"\n{piece}" if last == "image" else piece
        else:
            text += f" {IMAGE}" if text else IMAGE
        last = part["type"]
    return text, pictures


def _picture(part: Mapping[str, Any]) -> Image:
    """The picture of a content part: a PIL image, a file's bytes, or a path to a file."""
    from PIL import Image

    if part["type"] != "image":
        raise UserError(f"a message holds {part['type']}; this model takes text and images.")
    source = part.get("url", part.get("image"))
    if isinstance(source, Mapping):
        source = io.BytesIO(source["bytes"]) if source.get("bytes") else source["path"]
    return to_rgb(source if isinstance(source, Image.Image) else Image.open(source))
