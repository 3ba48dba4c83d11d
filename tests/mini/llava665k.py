"""A miniature of the LLaVA-665K tree: same folders, same twelve blocks, same oddities.

``make(root)`` writes ``root/llava_v1_5_mix665k.json`` and the image folders beside it, the same
bytes every time, in about a second. Rows stand in the order and roughly in the shares of the
published file; two images are lost and two broken, as OCR-VQA's are.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

ANNOTATIONS = "llava_v1_5_mix665k.json"
BLOCKS = {
    "llava_conversation": 26,
    "llava_detail": 12,
    "llava_reasoning": 34,
    "vqav2": 37,
    "okvqa": 6,
    "aokvqa": 30,
    "refcoco": 22,
    "vg": 39,
    "gqa": 32,
    "ocr_vqa": 36,
    "textcaps": 10,
    "sharegpt": 18,
}
"""Rows by source, in file order; their sum is :data:`ROWS`."""
ROWS = sum(BLOCKS.values())
MISSING = ("ocr_vqa/images/0006175465.jpg", "ocr_vqa/images/140031996X.jpg")
"""Named by a row each, and not there."""
CORRUPT = {
    "ocr_vqa/images/1437717772.jpg": "truncated",
    "ocr_vqa/images/0471149217.jpg": "an error page in HTML",
}
"""Named by a row each, and not decodable."""
CONVERTED = {
    "ocr_vqa/images/0316881791.jpg": "animated GIF",
    "ocr_vqa/images/0764556010.jpg": "palette GIF",
    "coco/train2017/000000000307.jpg": "grey",
    "textvqa/train_images/0054c91397f2fe05.jpg": "EXIF orientation",
    "vg/VG_100K/2331060.jpg": "CMYK",
    "gqa/images/2354786.jpg": "16-bit PNG",
}
"""Decodable, but no plain RGB JPEG; each is named by at least one row."""

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
CAPTION = "Provide a one-sentence caption for the provided image."
REGION = "Please provide a short description for this region: "
BOX = "Please provide the bounding box coordinate of the region this sentence describes: "
DETAIL = (
    "Describe the following image.",
    "What is this photo about'?",
    "Can you describe the main features of this image for me?",
    "Write a detailed description of the given image.",
)
COLOURS = "red green blue yellow white black orange purple".split()
THINGS = "bus cat dog kite bench clock pizza train".split()
PLACES = "street kitchen beach field station park".split()

Row = dict[str, Any]


def make(root: Path) -> Path:
    """Write the tree below ``root``; return the annotation file."""
    rows = list(records())
    root.mkdir(parents=True, exist_ok=True)
    path = root / ANNOTATIONS
    path.write_text(json.dumps(rows), encoding="utf-8")
    for name in dict.fromkeys(row["image"] for row in rows if "image" in row):
        if name not in MISSING:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            _write_image(root / name, name)
    return path


def records() -> Iterator[Row]:
    """The rows in file order."""
    rng = random.Random(665)
    for block, count in BLOCKS.items():
        for number in range(count):
            yield _MAKERS[block](rng, number)


def sources() -> list[str]:
    """The source of each row, in file order."""
    return [block for block, count in BLOCKS.items() for _ in range(count)]


# --- rows by block ----------------------------------------------------------------------------


def _row(identity: Any, image: str, texts: list[tuple[str, str]], *, last: bool = False) -> Row:
    """A row whose placeholder stands before, or with ``last`` after, the first question."""
    question = f"{texts[0][0]}\n<image>" if last else f"<image>\n{texts[0][0]}"
    turns = [(question, texts[0][1]), *texts[1:]]
    return {"id": identity, "image": image, "conversations": _conversation(turns)}


def _conversation(turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [
        {"from": role, "value": text}
        for turn in turns
        for role, text in zip(("human", "gpt"), turn, strict=True)
    ]


def _coco(number: int) -> tuple[str, str]:
    """Id and path; blocks that count from the same number share their pictures."""
    identity = f"{(number + 1) * 307:012d}"
    return identity, f"coco/train2017/{identity}.jpg"


def _scene(rng: random.Random) -> tuple[str, str, str]:
    return rng.choice(COLOURS), rng.choice(THINGS), rng.choice(PLACES)


def _llava_conversation(rng: random.Random, number: int) -> Row:
    colour, thing, place = _scene(rng)
    texts = [
        (f"What is the color of the {thing} in the image?", f"The {thing} is {colour}."),
        (f"Where is the {thing}?", f"The {thing} is at the {place}."),
        ("Is there anything else?", f"No, only the {colour} {thing} can be seen at the {place}."),
    ]
    identity, image = _coco(number)
    return _row(identity, image, texts[: 2 + number % 2], last=number % 3 == 1)


def _llava_detail(rng: random.Random, number: int) -> Row:
    colour, thing, place = _scene(rng)
    text = (
        f"The image features a {colour} {thing} prominently placed in the middle of a {place}. "
        f"Around the {thing} there are a few people, some of them standing close to it and others "
        "further away.\n\nThe scene is lively and gives a sense of an ordinary day."
    )
    identity, image = _coco(number + 10)
    return _row(identity, image, [(DETAIL[number % len(DETAIL)], text)], last=number % 2 == 0)


def _llava_reasoning(rng: random.Random, number: int) -> Row:
    colour, thing, place = _scene(rng)
    question = f"What might be the reason for the {thing} being at the {place}?"
    text = (
        f"The {thing} might be at the {place} for several reasons. It is {colour}, which makes it "
        "easy to see from far away, and people nearby do not seem surprised by it. Overall, the "
        f"presence of the {thing} suggests that the {place} is often used in this way."
    )
    identity, image = _coco(number)
    return _row(identity, image, [(question, text)], last=number % 2 == 1)


def _vqav2(rng: random.Random, number: int) -> Row:
    turns = []
    for turn in range(3 + number % 4):
        colour, thing, _ = _scene(rng)
        asked = (f"What color is the {thing}?", colour), (f"Is this a {thing}?", "Yes")
        turns.append(asked[turn % 2])
    turns[0] = (turns[0][0] + SHORT, turns[0][1])
    return _row((number + 1) * 307, _coco(number)[1], turns)


def _okvqa(rng: random.Random, number: int) -> Row:
    _, thing, place = _scene(rng)
    texts = [(f"Which company makes this kind of {thing}?{SHORT}", "Acme")]
    if number == 5:  # a few pictures have two questions
        texts.append((f"In which country is this {place}?", "France"))
    return _row((number + 3) * 307, _coco(number + 3)[1], texts)


def _aokvqa(rng: random.Random, number: int) -> Row:
    """Each question comes several times with its choices in another order, under one id."""
    fixed = random.Random(number // 3)
    things = fixed.sample(THINGS, 4)
    answer = things[0]
    rng.shuffle(things)
    choices = "".join(f"\n{letter}. {t}" for letter, t in zip("ABCD", things, strict=True))
    question = f"What is the person likely to need next?{choices}{LETTER}"
    identity, image = _coco(number // 3)
    return _row(identity, image, [(question, "ABCD"[things.index(answer)])])


def _regions(rng: random.Random, number: int) -> list[tuple[str, str]]:
    turns = []
    for turn in range(2 + number % 5):
        colour, thing, _ = _scene(rng)
        left, top = rng.randrange(50) / 100, rng.randrange(50) / 100
        box = f"[{left:.2f}, {top:.2f}, {left + 0.3:.2f}, {top + 0.4:.2f}]"
        name = f"the {colour} {thing}"
        turns.append((f"{BOX}{name}.", box) if (turn + number) % 2 else (f"{REGION}{box}.", name))
    return turns


def _refcoco(rng: random.Random, number: int) -> Row:
    return _row((number + 1) * 307, _coco(number)[1], _regions(rng, number))


def _vg(rng: random.Random, number: int) -> Row:
    folder = "VG_100K_2" if number % 5 > 2 else "VG_100K"
    identity = 2331060 + number
    return _row(identity, f"vg/{folder}/{identity}.jpg", _regions(rng, number))


def _gqa(rng: random.Random, number: int) -> Row:
    turns = []
    for _ in range(1 + number % 6):
        colour, thing, place = _scene(rng)
        turns.append((f"Is the {thing} on the left side of the {place} {colour}?", "No"))
    turns[0] = (turns[0][0] + SHORT, turns[0][1])
    identity = str(2354786 + number)
    return _row(identity, f"gqa/images/{identity}.jpg", turns)


def _ocr_vqa(rng: random.Random, number: int) -> Row:
    odd = [*MISSING, *CORRUPT, *(name for name in CONVERTED if name.startswith("ocr_vqa/"))]
    image = odd[number] if number < len(odd) else f"ocr_vqa/images/{number:09d}X.jpg"
    colour, thing, place = _scene(rng)
    turns = [
        (f"What is the title of this book?{SHORT}", f"The {colour.title()} {thing.title()}"),
        ("Who wrote this book?", f"A. {place.title()}"),
        ("Is this a comedy?", "No"),
    ]
    return _row(Path(image).stem, image, turns[: 2 + number % 2])


def _textcaps(rng: random.Random, number: int) -> Row:
    colour, thing, _ = _scene(rng)
    question = f"{CAPTION}\nReference OCR token: {thing.upper()}, {number}"
    names = [name for name in CONVERTED if name.startswith("textvqa/")]
    name = f"textvqa/train_images/{rng.getrandbits(64):016x}.jpg"
    image = names[number] if number < len(names) else name
    return _row(Path(image).stem, image, [(question, f"A {colour} {thing} with writing on it.")])


def _sharegpt(rng: random.Random, number: int) -> Row:
    """Chunks of long chats: no image key, a ``model`` key, some begin with the assistant."""
    _, thing, place = _scene(rng)
    turns = _conversation(
        [
            (
                f"Write a haiku about a {thing}.",
                f"A {thing} at dusk\nwaits — quietly — by the {place}",
            ),
            ("Now as a <b>table</b> in HTML ✨", f"<table><tr><td>{thing}</td></tr></table>"),
        ]
    )
    if number % 4 == 3:
        turns = turns[1:]
    return {"id": f"wgByO4Y_{number - number % 2}", "model": "", "conversations": turns}


_MAKERS: dict[str, Callable[[random.Random, int], Row]] = {
    "llava_conversation": _llava_conversation,
    "llava_detail": _llava_detail,
    "llava_reasoning": _llava_reasoning,
    "vqav2": _vqav2,
    "okvqa": _okvqa,
    "aokvqa": _aokvqa,
    "refcoco": _refcoco,
    "vg": _vg,
    "gqa": _gqa,
    "ocr_vqa": _ocr_vqa,
    "textcaps": _textcaps,
    "sharegpt": _sharegpt,
}


# --- images -----------------------------------------------------------------------------------


def _write_image(path: Path, name: str) -> None:
    picture = _picture(name)
    match CONVERTED.get(name) or CORRUPT.get(name):
        case "animated GIF":
            more = [_picture(f"{name}{frame}") for frame in range(2)]
            picture.save(path, "GIF", save_all=True, append_images=more)
        case "palette GIF":
            picture.save(path, "GIF")
        case "grey":
            picture.convert("L").save(path, "JPEG")
        case "CMYK":
            picture.convert("CMYK").save(path, "JPEG")
        case "16-bit PNG":
            wide = picture.convert("L").convert("I").point(lambda value: value * 257)
            wide.convert("I;16").save(path, "PNG")
        case "EXIF orientation":
            exif = Image.Exif()
            exif[0x0112] = 6  # stands on its side
            picture.save(path, "JPEG", exif=exif)
        case "truncated":
            picture.save(path, "JPEG")
            path.write_bytes(path.read_bytes()[:400])
        case "an error page in HTML":
            path.write_text("<!DOCTYPE html><html><body>404 Not Found</body></html>")
        case _:
            picture.save(path, "JPEG", quality=85)


def _picture(name: str) -> Image.Image:
    """A picture that depends on the name alone: two shapes on a plain ground."""
    rng = random.Random(name)
    width, height = rng.choice(((64, 48), (48, 64), (60, 60), (80, 40)))
    picture = Image.new("RGB", (width, height), rng.choice(COLOURS))
    draw = ImageDraw.Draw(picture)
    for shape in (draw.ellipse, draw.rectangle):
        left, top = rng.randrange(width // 2), rng.randrange(height // 2)
        box = (left, top, left + rng.randrange(8, width // 2), top + rng.randrange(8, height // 2))
        shape(box, fill=rng.choice(COLOURS))
    return picture
