"""Other media than pictures: fields and tags, each a fault of its row, or a text that is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coincide.data.llava import Llava
from coincide.data.llava_json import inspect, read
from coincide.data.messages import Messages
from coincide.data.parse import parse
from coincide.data.report import Policies
from coincide.schema import UserError
from coincide.store import Store
from tests.data.files import row, text_row, turn, write
from train.data import open_subset

TAGS = [
    "<video>", "<audio>", "<speech>", "<sound>", "<VIDEO>", "<Image>", "<|image_pad|>",
    "<|video_pad|>", "<|vision_start|>", "<|image|>", "<|image_1|>", "<|audio_1|>", "<|AUDIO|>",
    "<|audio_bos|>", "<image_placeholder>", "<image-placeholder>", "<image_00>", "<image 1>",
    "<image1>", "<IMG_CONTEXT>", "<img>", "<Img>", "<ImageHere>", "<im_patch>", "<im_start>",
    "<start_of_image>", "<image_soft_token>", "<|begin_of_image|>", "<fake_token_around_image>",
    "<|media_pad|>", "[IMG]", "[IMG_BREAK]", "<video>clips/1.mp4</video>", "<audio>a.wav</audio>",
    "(<image>./</image>)", "<ref>a dog</ref>", "<box>(1,2),(3,4)</box>", "<quad>", "<bbox>",
    "<ref-object>", "<|object_ref_start|>", "<|box_start|>", "<|det|>", "<|grounding|>",
    "<loc0012>", "<loc_12>", "<seg001>", "<region1>", "<patch_index_0001>", "<grounding>",
    '<point x="1.5" y="2">', "{<1><2><3><4>}", "<image/>", "<video />",
    "<|begin_of_box|>", "<point>12 30</point>", "<imgpad>", "<|video_frame|>",
    "data:image/png;base64,iVBORw0KGgo=", "[SEG]", "<region_fea>", "<coor_12>", "<phrase>",
    "<media>", "<pic_1>", "<image: a.png>", "<audio=a.wav>", "<|startofimage|>", "<|boi|>",
    "<|loc_7|>", "<bbox_1>", "<boxes>", "<obj1>", "[IMAGE]", "[VIDEO_1]", "[IMG_PLACEHOLDER]",
    "![a dog](pics/a.png)", "<point_cloud>", "<visual_token>", "<SEG>",
]  # fmt: skip
WORDS = [
    "a < b and c > d", "<b>bold</b>", '<img src="a.png">', '<video controls src="x.mp4"></video>',
    "<|im_start|>user", "<s>", "</image>", "the image: a.png", "[1, 2]", "[image]", "<imagine>",
    "<videogame>", "vector<int>", "<point>", "<mask>", "<object>", "<p>", "<media query>",
    "![a dog](https://x.org/a.png)", "[IMAGE](https://x.org)", '<image x="1">', "list[0]", "<seg>",
]  # fmt: skip


def asks(text: str, **more: Any) -> dict[str, Any]:
    return text_row(conversations=[turn("human", f"see {text} now"), turn("gpt", "a")], **more)


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_of_other_media_is_a_fault_unless_texts_are_texts(tag: str) -> None:
    value = asks(tag)
    if "<image>" in tag:
        value["image"] = "a.png"
    _, _, fault = parse(0, value, lambda _: "")
    assert fault
    assert fault.kind == "media tag in a text"
    assert "data.on_media_tag=text" in fault.detail
    example, _, none = parse(0, value, lambda _: "", tags_as_text=True)
    assert none is None
    assert example.turns[0].text == value["conversations"][0]["value"], "as it stands"


@pytest.mark.parametrize("text", WORDS)
def test_other_brackets_are_words(text: str) -> None:
    assert parse(0, asks(text), lambda _: "")[2] is None


def test_a_tag_in_an_answer_and_beside_a_picture_counts(tmp_path: Path) -> None:
    answer = row(conversations=[turn("human", "<image>\nwhere?"), turn("gpt", "<box>1</box>")])
    beside = row(question="<image>\nand <video>?")
    path = write(tmp_path, [row(), answer, beside])
    _, report = inspect(path, tmp_path, name="x", policies=Policies(on_bad_row="drop"))
    assert report.problems["media tag in a text"].rows == [1, 2]
    with pytest.raises(UserError, match=r"2 x media tag in a text: rows 1, 2 .*holds '<box>'"):
        read(path, tmp_path, name="x")
    kept = read(path, tmp_path, name="x", tags_as_text=True)
    assert not kept.dropped


FIELDS: list[dict[str, Any]] = [
    {"video": "clips/1.mp4"}, {"videos": ["1.mp4"]}, {"audio": "a.wav"}, {"audios": [["a"]]},
    {"video_path": "x"}, {"audio_url": "http://x"}, {"speech": "a.wav"}, {"sound": "a.wav"},
    {"frames": ["1.jpg", "2.jpg"]}, {"images": ["a.png"]}, {"image_path": "a.png"},
    {"image_url": "http://a/b.png"}, {"img": "a.png"}, {"pixel_values": [[0.1]]},
    {"thing": {"bytes": b"\x89PNG"}}, {"thing": "data:audio/wav;base64,AAAA"},
    {"clip": "clips/1.mp4"}, {"photo_of": "b.jpg"}, {"Video": "clips/1.mp4"},
    {"media": [{"type": "video", "path": "a"}]}, {"multi_modal_data": {"image": "a"}},
    {"pdf": "a.pdf"}, {"features": "clip.npy"}, {"audioPath": "x"}, {"music": ["a.mp3"]},
    {"shown": [{"path": "a.png"}]}, {"audio": {"array": [0.1], "sampling_rate": 16000}},
    {"has_image": True}, {"contains_video": True},
]  # fmt: skip
HARMLESS: list[dict[str, Any]] = [
    {"video": None}, {"videos": []}, {"audio": ""}, {"images": []}, {"frames": 8},
    {"video_id": "v7"}, {"source": "a.mp4"}, {"url": "http://a/b.png"}, {"width": [640]},
    {"media": "newspaper"}, {"meta": {"width": 3}}, {"has_image": False},
]  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_with_media_that_is_not_read_is_a_fault(field: dict[str, Any]) -> None:
    fault = parse(0, text_row(**field), lambda _: "")[2]
    assert fault
    assert fault.kind == "media that are not read"
    said = [{**turn("human", "q"), **field}, turn("gpt", "a")]
    fault = parse(0, text_row(conversations=said), lambda _: "")[2]
    assert fault
    assert fault.kind == "media that are not read"


@pytest.mark.parametrize("field", HARMLESS)
def test_empty_and_harmless_fields_are_none(field: dict[str, Any]) -> None:
    assert parse(0, text_row(**field), lambda _: "")[2] is None


def test_notes_beside_a_picture_are_no_media() -> None:
    notes = {"image_url": "http://a/b.png", "mask_path": "m.png", "images": ["pics/a.png"],
             "meta": {"cut_from": "clip.mp4"}, "video_name": "clip.mp4",
             "image_1": "pics/a.png", "image_2": 640, "has_image": True}  # fmt: skip
    assert parse(0, row(image=["pics/a.png"], **notes), lambda _: "")[2] is None


@pytest.mark.parametrize(
    "field",
    [{"images": ["b.png", "c.png"]}, {"image_2": "b.png"}, {"image2": "b.png"}, {"imageB": "b.png"},
     {"second_image": "b.png"}, {"img_2": ["b.png"]}, {"clip": "a.mp4"}, {"music": ["a.mp3"]},
     {"shown": [{"type": "video", "path": "a.mp4"}]}],
)  # fmt: skip
def test_other_media_beside_a_picture_are_a_fault(field: dict[str, Any]) -> None:
    fault = parse(0, row(image=["pics/a.png"], **field), lambda _: "")[2]
    assert fault
    assert fault.kind == "media that are not read"


def test_a_video_among_the_pictures_is_a_fault() -> None:
    fault = parse(0, row(image="clips/1.MP4"), lambda _: "")[2]
    assert fault
    assert "stands among the pictures" in fault.detail


def test_the_published_mixture_takes_tags_as_words(tmp_path: Path) -> None:
    """ShareGPT's rows talk of HTML; LLaVA-665K has no medium but pictures."""
    rows = [row(), asks("<video>")]
    data = Llava(str(write(tmp_path, rows)), str(tmp_path), expect="any")
    assert "reader" not in data.step().config
    assert not data.open(Store(tmp_path / "store").ensure(data.step()).path).dropped


def test_a_subset_with_quoted_tags_is_trained(tmp_path: Path) -> None:
    from types import SimpleNamespace

    path = write(tmp_path, [row(), asks("<video>")])
    job: Any = SimpleNamespace(annotations=str(path), image_root=str(tmp_path), blank_rows=[])
    assert [len(e.turns) for e in open_subset(job).examples] == [2, 2]


def test_unknown_choice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="on_media_tag='drop': the choices are bad_row, text"):
        Messages(str(tmp_path), str(tmp_path), on_media_tag="drop")
