"""Detect media in a row that are not read: fields that name them, and tags in a text.

Every family of models and trainers has its own tags for pictures, videos, sounds and regions of a
picture. Only ``<image>`` stands for a picture here. Any other tag would be learnt as plain words,
and a video in a field of its own would leave a text-only row that asks about nothing. Both are
faults of the row.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from coincide.data.fault import BadRow, plain_name, short

TAG = "media tag in a text"
FIELD = "media that are not read"
_MEDIA = (
    "images?|imgs?|videos?|vid|audios?|speech|sounds?|voice|music|vision|pictures?|pics?|photos?|"
    "point_?clouds?|depth"
)
_TAIL = (
    r"(?:[ _-]?(?:\d+|placeholder|pad|start|end|begin|bos|eos|bov|eov|token|soft|patch|context|"
    r"here|content|newline|break|id|ids|features?|embeds?|thumbnail|sep|path|file|url|chunk|"
    r"sentinel|frames?))*"
)
_PLACES = (
    r"ref|box|boxes|quad|bbox(?:_?\d+)?|ref[-_]object|grounding|points?\s+x\d?\s*=[^>]*|"
    r"(?:loc|seg|region|patch_index|bin|coor|coord|obj)_?\d+|region_fea(?:t|ture)?|"
    r"phrase|delimiter_of_multi_objects"
)
_TAGS = re.compile(
    rf"""
    (?!(?-i:<image>))
    <(?:
        \|? (?:(?:start|end|begin)_?of_?|fake_token_around_|global[-_])? (?:{_MEDIA}) {_TAIL} \|?
      | (?:{_MEDIA}) (?: \s*:\s* | =(?!["'\s]) ) [^<>\n]{{1,1024}}
      | (?:im|vi)_(?:start|end|patch)
      | \|? media (?:_(?:pad|begin|end|content|start|\d+))? \|?
      | \|frames?\| | vis(?:ual)?_(?:start|end|tokens?)
      | frame_?\d+
      | \|? (?:[bse]oi|[be]o[av]) \|?
      | {_PLACES} | (?-i:SEG)
      | \|(?:object_ref|box|quad|ref|det|grounding|point|bbox)(?:_start|_end)?\|
      | \|(?:loc|seg|region)_?\d+\|
      | \|(?:begin|end)_of_box\|
    )\s*/?>
    | <points?>\s*[\[(]?\d
    | (?-i:<image>)[^<\n]{{0,4096}}</image>
    | \{{<\d+><\d+>
    | (?-i:\[(?:IMG|IMAGE|AUDIO|VIDEO)(?:[_:]?\d+|_PLACEHOLDER)?\])(?!\(?https?:)
    | (?-i:\[(?:IMG_BREAK|IMG_END|BEGIN_AUDIO|SEG)\])
    | !\[[^\]\n]{{0,256}}\]\((?!https?:)[^()\s]{{1,1024}}\.(?:png|jpe?g|gif|webp|bmp|tiff?)\)
    | data:(?:image|video|audio)/[\w.+-]+;base64,
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""LLaMA-Factory and ms-swift (<video>, <audio>, <bbox>, <ref-object>), Qwen-VL (<img>, <ref>,
<box>, <|image_pad|>, <|vision_start|>, <|object_ref_start|>), InternVL (<IMG_CONTEXT>, <quad>),
MiniCPM-V (<image_00>, <image>./</image>), DeepSeek-VL (<image_placeholder>, <|det|>), LLaVA
(<im_patch>, <image-placeholder>), Phi (<|image_1|>), Llama (<|image|>), Gemma (<start_of_image>),
Idefics (<fake_token_around_image>), Pixtral ([IMG]), PaliGemma and Florence (<loc0001>), Kosmos
(<grounding>, <phrase>), LISA ([SEG]), Ferret (<region_fea>), Molmo (<point x=...>), MiniGPT (<Img>,
<ImageHere>, {<1><2>...})."""

_OTHER = re.compile(
    r"(?:input_)?(?:videos?|audios?|speech|sounds?|voices?|wavs?|mp3s?|mp4s?|video_frames|frames|"
    r"point_?clouds?)(?:_(?:paths?|files?|urls?|uris?|bytes|data|frames|list|base64|b64|clips?))?"
)
_PICTURES = re.compile(
    r"(?:input_)?(?:images?|imgs?|pictures?|photos?|pics?)"
    r"(?:_(?:paths?|files?|urls?|uris?|bytes|data|list|base64|b64))?|pixel_values"
)
_HOLDERS = frozenset({"media", "medias", "multimedia", "multi_modal_data", "mm_data", "attachment",
                      "attachments"})  # fmt: skip
"""Fields that hold media of any kind if they are objects or lists."""
_FURTHER = re.compile(
    r"(?:[a-z]+_)?(?:images?|imgs?|pictures?|photos?|pics?)_?(?:\d+|[a-d])|"
    r"(?:second|third|next|other|extra|additional|more|context|reference)_"
    r"(?:images?|imgs?|pictures?|photos?|pics?)"
)
"""Fields of a second picture."""
_HAS = re.compile(
    "(?:has|with|contains)_(?:an?_)?(?:(images?|pictures?|photos?)|videos?|audios?|sounds?|speech)"
)
"""Fields that say that there is a picture (first group) or another medium."""
_MOVING = re.compile(
    r"\.(?:mp4|avi|mov|mkv|webm|m4v|mpe?g|flv|wmv|wav|mp3|flac|ogg|m4a|aac|opus)(?:[?#]\S*)?$",
    re.IGNORECASE,
)
_ENDING = re.compile(
    rf"{_MOVING.pattern}|\.(?:jpe?g|png|gif|webp|bmp|tiff?|heic|avif|svg|pdf|dcm|nii|ply|pcd|npy|npz|"
    r"pt|pth)(?:\.gz)?(?:[?#]\S*)?$",
    re.IGNORECASE,
)
_ORIGIN = frozenset({"id", "source", "sources", "url", "urls", "origin", "dataset", "name",
                     "task", "task_name", "category"})  # fmt: skip
"""Fields that say where a row comes from, whatever they contain."""


def refuse_tags(turn: str, text: str) -> None:
    """Raise :class:`BadRow` for a tag in ``text`` that stands for media and is not ``<image>``."""
    if text.count("<") == text.count("<image>") and "[" not in text and ";base64," not in text:
        return
    found = _TAGS.search(text)
    if found:
        raise BadRow(
            TAG,
            f"{turn} holds {short(found[0])}, which is no picture's place here: those are <image> "
            "(and <img>path</img> in data=messages). data.on_media_tag=text takes tags as words",
        )


def refuse_fields(
    where: str, fields: Mapping[str, Any], known: Collection[str], pictures: Sequence[str]
) -> None:
    """Raise :class:`BadRow` if a field that is not ``known`` holds media.

    ``pictures``: the row's pictures that are read; a path in another field that belongs to one of
    them (its mask, its address, an object that says where it comes from) is taken as a note.
    """
    for key, value in fields.items():
        name = plain_name(key)
        if value is True and (said := _HAS.fullmatch(name)) and not (said[1] and pictures):
            raise BadRow(FIELD, f"{where} has {key!r}: True, and none is read")
        if key in known or not value or isinstance(value, (bool, int, float)):
            continue
        held = name in _HOLDERS and not isinstance(value, str)
        noted = _is_note(name) or (bool(pictures) and isinstance(value, dict))
        moving = not noted and any(map(_MOVING.search, _paths(value)))
        if _OTHER.fullmatch(name) or held or _inline(value) or moving:
            raise BadRow(FIELD, f"{where} has {key!r}: {short(value)}")
        other = name == "images" and value != list(pictures)
        other = other or (_FURTHER.fullmatch(name) and not {*_paths(value)} <= {*pictures})
        if other or (not pictures and _names_picture(name, value)):
            raise BadRow(
                FIELD,
                f"{where} has {key!r}: {short(value)}, where no picture is read; LLaVA json has "
                "them under 'image', data=messages under 'images' and in the parts of a turn too",
            )


def _names_picture(name: str, value: Any) -> bool:
    if _PICTURES.fullmatch(name):
        return True
    return not _is_note(name) and any(map(_ENDING.search, _paths(value)))


def _is_note(name: str) -> bool:
    return name in _ORIGIN or name.endswith(("_id", "_name"))


def _paths(value: Any) -> list[str]:
    """Texts in ``value`` that may be paths: itself, or those in a list or in objects in it."""
    items = value if isinstance(value, list) else [value]
    parts = (
        part for item in items for part in (item.values() if isinstance(item, dict) else [item])
    )
    return [part for part in parts if isinstance(part, str) and len(part) < 1024]


def refuse_moving(pictures: Sequence[str]) -> None:
    """Raise :class:`BadRow` if a path among ``pictures`` is that of a video or sound."""
    for path in pictures:
        if _MOVING.search(path):
            raise BadRow(FIELD, f"{short(path)} stands among the pictures")


def _inline(value: Any) -> bool:
    """Whether ``value`` holds the bytes of media: as bytes, ``{"bytes": ...}`` or a data: URI."""
    if isinstance(value, list):
        return bool(value) and _inline(value[0])
    if isinstance(value, dict):
        return bool(value.get("bytes"))
    return isinstance(value, bytes) or (
        isinstance(value, str) and value.startswith(("data:image", "data:video", "data:audio"))
    )
