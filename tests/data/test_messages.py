"""data=messages: what other trainers read and write, turn by turn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from coincide.data.llava_json import read
from coincide.data.messages import Messages
from coincide.data.subset import write_subset
from coincide.schema import Dataset, Turn, UserError
from coincide.store import Store
from tests.mini import llava665k as mini

ASKED = Turn("human", "<image>\nwhat?"), Turn("gpt", "red")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def user(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def assistant(content: Any = "red", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def opened(root: Path, text: str | list[Any], **options: Any) -> Dataset:
    """Write ``text`` (or rows) as annotations beside a picture, and open them."""
    (root / "pics").mkdir(parents=True, exist_ok=True)
    for name in "ab":
        Image.new("RGB", (8, 6), "red").save(root / "pics" / f"{name}.png")
    path = root / "train.json"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    data = Messages(annotations=str(path), images=str(root), **options)
    return data.open(Store(root / "store").ensure(data.step()).path)


def picture(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


PARTS = [picture("pics/a.png"), {"type": "text", "text": "what?"}]
FORMS = {
    "openai": {"messages": [user("<image>\nwhat?"), assistant()], "images": ["pics/a.png"]},
    "openai parts": {"messages": [user(PARTS), assistant([{"type": "text", "text": "red"}])]},
    "parts with a path": {
        "messages": [
            user([{"type": "image", "image": "pics/a.png"}, {"type": "text", "text": "what?"}]),
            assistant(),
        ]
    },
    "llama-factory sharegpt": {
        "conversations": [
            {"from": "human", "value": "<image>\nwhat?"},
            {"from": "gpt", "value": "red"},
        ],
        "images": ["pics/a.png"],
        "system": "be brief",
    },
    "ms-swift without a placeholder": {
        "messages": [{"role": "system", "content": "be brief"}, user("what?"), assistant()],
        "images": [{"path": "pics/a.png", "bytes": None}],
    },
    "trl": {
        "messages": [
            user([{"type": "image"}, {"type": "text", "text": "what?"}]),
            assistant([{"type": "text", "text": "red"}]),
        ],
        "images": ["pics/a.png"],
    },
    "trl as parquet fills it": {
        "messages": [
            user([{"type": "image", "text": None}, {"type": "text", "text": "what?"}]),
            assistant([{"type": "text", "text": "red"}]),
        ],
        "images": [{"path": "pics/a.png", "bytes": None}],
    },
    "openai with a developer": {
        "messages": [{"role": "developer", "content": "be brief"}, user(PARTS), assistant()]
    },
    "responses api": {
        "messages": [
            user([{"type": "input_image", "image_url": "pics/a.png"},
                  {"type": "input_text", "text": "what?"}]),
            assistant([{"type": "output_text", "text": "red"}]),
        ]
    },
    "anthropic": {
        "system": [{"type": "text", "text": "be brief"}],
        "messages": [
            user([{"type": "image", "source": {"type": "url", "url": "file://pics/a.png"}},
                  {"type": "text", "text": "what?", "cache_control": {"type": "ephemeral"}}]),
            assistant(),
        ],
    },
    "qwen": {
        "messages": [
            user([{"image": "pics/a.png"}, {"text": "what?"}]), assistant([{"text": "red"}])
        ]
    },
    "a table's text, from a model": {
        "messages": json.dumps([user("what?"), {"role": "model", "content": "red"}]),
        "images": ["pics/a.png"],
    },
    "qwen-vl": {
        "conversations": [
            {"from": "user", "value": "<img>pics/a.png</img>\nwhat?"},
            {"from": "assistant", "value": "red"},
        ]
    },
    "llama-factory v1": {
        "messages": [
            user([{"type": "image_url", "value": "pics/a.png"}, {"type": "text", "value": "what?"}],
                 loss_weight=0.0),
            assistant([{"type": "text", "value": "red"}], loss_weight=1.0),
        ]
    },
    "llama-factory alpaca": {
        "instruction": "<image>", "input": "what?", "output": "red", "images": ["pics/a.png"],
        "system": "be brief", "history": [],
    },
    "ms-swift query": {
        "query": "what?", "response": "red", "images": ["pics/a.png"], "history": None,
    },
    "ms-swift pairs": {
        "conversation": [{"human": "what?", "assistant": "red"}], "image": "pics/a.png",
    },
    "xtuner": {"conversation": [{"system": "be brief", "input": "<image>\nwhat?", "output": "red"}],
               "image": "pics/a.png"},
    "question and answer": {"question": "what?", "answer": "red", "image": "pics/a.png"},
    "trl prompt": {"prompt": "<image>\nwhat?", "completion": "red", "image": "pics/a.png"},
    "trl prompt as messages": {
        "prompt": [user([{"type": "image"}, {"type": "text", "text": "what?"}])],
        "completion": [assistant()], "images": ["pics/a.png"],
    },
    "the cauldron": {"texts": [{"user": "what?", "assistant": "red", "source": "x"}],
                     "images": [{"path": "pics/a.png"}]},
    "minicpm-v": {"conversations": [user("<image_00>\nwhat?"), assistant()],
                  "image": {"<image_00>": "pics/a.png"}},
    "internvl": {
        "image": "pics/a.png", "width": 8, "height": 6,
        "conversations": [
            {"from": "human", "value": "<image>\nwhat?"},
            {"from": "gpt", "value": "red"},
        ],
    },
    "llava": {
        "image": "pics/a.png",
        "conversations": [
            {"from": "human", "value": "<image>\nwhat?"},
            {"from": "gpt", "value": "red"},
        ],
    },
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("lines", [False, True])
def test_every_form_gives_the_same_turns(tmp_path: Path, form: str, lines: bool) -> None:
    rows = [{"id": i, **FORMS[form]} for i in range(3)]
    text = "\n".join(map(json.dumps, rows)) + "\n\n" if lines else json.dumps(rows)
    dataset = opened(tmp_path, text)
    assert [e.id for e in dataset.examples] == ["0", "1", "2"]
    for example in dataset.examples:
        assert example.turns == ASKED
        assert example.images == ("pics/a.png",)
        assert example.source == "pics"


def test_earlier_rounds_and_what_of_them_is_learnt(tmp_path: Path) -> None:
    """History is learnt as LLaMA-Factory and ms-swift do; TRL learns the completion alone."""
    rows = [
        {"query": "b", "response": "2", "history": [["a", "1"]]},
        {"instruction": "b", "input": "", "output": "2", "history": [["a", "1"]]},
        {"texts": [{"user": "a", "assistant": "1"}, {"user": "b", "assistant": "2"}]},
        {"conversations": [["a", "1"], ["b", "2"]]},
        {"prompt": [user("a"), assistant("1"), user("b")], "completion": "2"},
        {"conversation": [{"input": "a", "output": "1", "output_with_loss": False},
                          {"input": "b", "output": "2"}]},
    ]  # fmt: skip
    for number, example in enumerate(opened(tmp_path, rows).examples):
        assert [t.text for t in example.turns] == ["a", "1", "b", "2"]
        assert [t.learn for t in example.turns] == [True, number < 4, True, True]


def test_absolute_paths_and_several_images(tmp_path: Path) -> None:
    inside = str(tmp_path / "pics" / "b.png")
    rows = [
        {
            "messages": [user("<image> and <image>: same?"), assistant("yes")],
            "images": ["pics/a.png", f"file://{inside}"],
        },
        {"messages": [user("hello"), assistant("hi")], "images": None},
    ]
    both, text = opened(tmp_path, rows).examples
    assert both.images == ("pics/a.png", "pics/b.png")
    assert text.images == ()
    assert text.source == "text"
    with pytest.raises(UserError, match="an absolute path"):
        opened(tmp_path, [{"messages": [user("<image>?"), assistant()], "images": ["/etc/x.png"]}])


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({}, "no conversation"),
        ([], "not an object"),
        ({"messages": [user("a"), "b"]}, "malformed turn"),
        ({"messages": [user(None), assistant()]}, "malformed turn"),
        ({"messages": [user("a"), {"role": "tool", "content": "x"}]}, "unknown role"),
        ({"messages": [user("a"), {"role": ["user"], "content": "x"}]}, "unknown role"),
        ({"messages": [user("a"), assistant("", tool_calls=[{}])]}, "tool call"),
        ({"messages": [user([{"type": "thing"}]), assistant()]}, "malformed turn"),
        ({"messages": [user([{"type": "video"}]), assistant()]}, "media that are not read"),
        ({"messages": [user([{"type": "input_audio", "input_audio": {}}]), assistant()]},
         "media that are not read"),
        ({"messages": [user([{"type": "text", "text": "q", "video": "a.mp4"}]), assistant()]},
         "media that are not read"),
        ({"messages": [user([{"type": "text", "text": "q", "image": "a.png"}]), assistant()]},
         "media that are not read"),
        ({"messages": [user("q", audio="a.wav"), assistant()]}, "media that are not read"),
        ({"messages": [user("q"), assistant()], "videos": ["a.mp4"]}, "media that are not read"),
        ({"messages": [user("<video>q"), assistant()]}, "media tag in a text"),
        ({"messages": [user([{"type": "tool_result", "content": "x"}]), assistant()]}, "tool call"),
        ({"messages": [user("q"), assistant([{"type": "thinking", "thinking": "x"}])]},
         "text that is not read"),
        ({"messages": [user("q"), assistant([{"type": "text", "text": "a", "train": False}])]},
         "mark of what is learnt"),
        ({"messages": [user("<img>http://a/b.png</img>"), assistant()]}, "image that is no file"),
        ({"messages": [user("q"), assistant()], "image": "a.png", "images": ["b.png"]},
         "wrong image field"),
        ({"messages": [user("<image> <image>", images=["a.png"]), assistant()]},
         "wrong image field"),
        ({"messages": [user([{"type": "image"}]), assistant()], "images": ["a.png", "b.png"]},
         "fewer <image> than images"),
        ({"messages": [user([{"type": "image"}, {"type": "image"}]), assistant()],
          "images": ["a.png"]}, "more <image> than images"),
        ({"query": "q", "response": "a", "history": "[['a', 'b']]"}, "malformed turn"),
        *(({"question": "q", "answer": "A", **more}, "text that is not read") for more in (
            {"options": ["x", "y"]}, {"A": "x", "B": "y"}, {"hint": "see"}, {"context": "see"})),
        ({"messages": [user([{"type": "image", "image": "a.png", "text": "see"}]), assistant()]},
         "text that is not read"),
        ({"instruction": "q", "output": ["a"]}, "malformed turn"),
        ({"texts": [{"user": "q"}]}, "malformed turn"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "no conversation"),
        ({"messages": [user("<image>"), assistant()], "images": [3]}, "wrong image field"),
        ({"messages": [user([picture("https://a/b.png")]), assistant()]}, "image that is no file"),
        ({"messages": [user([picture("data:image/png;base64,")]), assistant()]},
         "wrong inline picture"),
        ({"messages": [user([picture("data:video/mp4;base64,AAAA")]), assistant()]},
         "wrong inline picture"),
        ({"messages": [user([picture("data:image/png;base64,a!b")]), assistant()]},
         "wrong inline picture"),
        ({"messages": [user("<image>"), assistant()], "images": [{"bytes": {"a": 1}}]},
         "wrong inline picture"),
        ({"messages": [user("\ud800"), assistant()]}, "broken Unicode"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_is_a_fault_of_its_row(tmp_path: Path, row: Any, kind: str) -> None:
    good = FORMS["openai"]
    with pytest.raises(UserError, match=f"1 x {kind}: rows 1"):
        opened(tmp_path, [good, row])
    dataset = opened(tmp_path, [good, row, good], on_bad_row="drop")
    assert dataset.dropped == {1: kind}
    assert dataset.examples[2].turns == ASKED


TWO = ["pics/a.png", "pics/b.png"]


def test_pictures_without_a_tag_stand_before_the_first_question(tmp_path: Path) -> None:
    """As LLaMA-Factory and ms-swift put them; the first picture takes the tag that is added."""
    rows = [
        {"messages": [user("and <image>?"), assistant()], "images": TWO},
        {"messages": [user("q"), assistant()], "images": TWO},
        {"messages": [{"role": "system", "content": "s"}, user("q"), assistant()], "image": TWO[1]},
    ]
    one, two, three = opened(tmp_path, rows).examples
    assert (one.images, one.turns[0].text) == (tuple(TWO), "<image>\nand <image>?")
    assert (two.images, two.turns[0].text) == (tuple(TWO), "<image>\n<image>\nq")
    assert (three.images, three.turns[0].text) == (("pics/b.png",), "<image>\nq")


def test_every_picture_stands_in_its_place(tmp_path: Path) -> None:
    """Those that parts and texts name among those that the row lists."""
    parts = [
        {"type": "image", "path": TWO[1]},
        {"type": "text", "text": "then"},
        {"type": "image"},
        {"type": "text", "text": "<image>"},
    ]
    rows = [
        {"messages": [user(parts), assistant()], "images": [TWO[0], TWO[0]]},
        {"messages": [user(f"Picture 1: <img>{TWO[1]}</img>\n<image>"), assistant()],
         "images": TWO[:1]},
        {"messages": [user("<image>", images=[TWO[1]]), assistant("<image>")], "images": TWO[:1]},
        {"messages": [user("q", images=TWO), assistant()]},
        {"conversations": [{"role": "user", "content": "<image_01> <image_00>"}, assistant()],
         "image": {"<image_00>": TWO[0], "<image_01>": TWO[1]}},
    ]  # fmt: skip
    found = [(e.images, e.turns[0].text) for e in opened(tmp_path, rows).examples]
    back = (TWO[1], TWO[0])
    assert found == [
        ((*back, TWO[0]), "<image>\nthen\n<image>\n<image>"),
        (back, "Picture 1: <image>\n<image>"),
        (back, "<image>"),
        (tuple(TWO), "<image>\n<image>\nq"),
        (back, "<image> <image>"),
    ]


def test_a_part_may_name_its_picture_by_number(tmp_path: Path) -> None:
    """As HuggingFaceH4/llava-instruct-mix-vsft does: ``index`` is a place in ``images``."""

    def asks(*numbers: Any) -> dict[str, Any]:
        parts = [{"type": "image", "text": None, "index": n} for n in numbers]
        text = {"type": "text", "text": "same?", "index": None}
        return {"messages": [user([*parts, text]), assistant()], "images": TWO}

    rows = [asks(0, 1), asks(1, 0), asks(1, 0, 1), asks(0), asks(0, 2), asks(0, None), asks("0")]
    dataset = opened(tmp_path, rows, on_bad_row="drop")
    back = (TWO[1], TWO[0])
    assert [e.images for e in dataset.examples[:3]] == [tuple(TWO), back, (*back, TWO[1])]
    assert dataset.dropped == {
        3: "fewer <image> than images", 4: "wrong image field", 5: "wrong image field",
        6: "malformed turn",
    }  # fmt: skip


def test_the_export_of_a_subset_is_read_back_losslessly(tmp_path: Path) -> None:
    """665K miniature -> subset's messages.json -> data=messages: the same examples."""
    root = tmp_path / "llava"
    dataset = read(
        mini.make(root), root, name="mini", on_missing_image="drop", on_bad_row="drop"
    )  # fmt: skip
    out = tmp_path / "subset"
    out.mkdir()
    rows = [e.row for e in dataset.examples if e.row not in dataset.dropped]
    write_subset(out, dataset, rows, {})
    data = Messages(str(out / "messages.json"), str(root), on_corrupt_image="drop")
    again = data.open(Store(tmp_path / "store").ensure(data.step()).path)
    assert len(again) == len(rows)
    for row, example in zip(rows, again.examples, strict=True):
        original = dataset.examples[row]
        if example.row not in again.dropped:
            assert example.turns == original.turns
        assert (example.id, example.images) == (original.id, original.images)
    assert set(again.dropped.values()) == {"corrupt image"}


def test_a_subset_of_messages_is_llava_json(tmp_path: Path) -> None:
    rows = [{"id": i, "lang": "en", **form} for i, form in enumerate(FORMS.values())]
    dataset = opened(tmp_path, "\n".join(map(json.dumps, rows)))
    out = tmp_path / "subset"
    out.mkdir()
    write_subset(out, dataset, [1, 3, 4], {})
    subset = read(out / "subset.json", tmp_path, name="subset")
    assert [e.id for e in subset.examples] == ["1", "3", "4"]
    assert all(e.turns == ASKED for e in subset.examples)
    said = json.loads((out / "messages.json").read_text())[0]
    assert [m["content"] for m in said["messages"] if m["role"] != "system"] == [
        turn.text for turn in dataset.examples[1].turns
    ]
    assert said["images"] == ["pics/a.png"]


def test_the_same_file_read_both_ways_has_two_keys(tmp_path: Path) -> None:
    from coincide.data.llava_json import LlavaJson

    opened(tmp_path, [FORMS["llava"]])
    keys = {
        kind(str(tmp_path / "train.json"), str(tmp_path)).step().key
        for kind in (Messages, LlavaJson)
    }
    assert len(keys) == 2


def test_a_text_that_quotes_img_tags_is_text_where_tags_are(tmp_path: Path) -> None:
    """The same file read both ways, one after the other: no memory of the one tells the other."""
    quoted = "What is <img>pics/a.png</img>?"
    rows = [{"messages": [user(quoted), assistant()]}]
    for _ in range(2):
        (read_so,) = opened(tmp_path, rows).examples
        assert (read_so.images, read_so.turns[0].text) == (("pics/a.png",), "What is <image>?")
        (text,) = opened(tmp_path, rows, on_media_tag="text").examples
        assert (text.images, text.turns[0].text) == ((), quoted)
