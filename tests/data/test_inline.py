"""Pictures that are part of a row: one file each, checked and known by content as any picture."""

from __future__ import annotations

import base64
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from coincide.data.convert import to_llava
from coincide.data.images import load_image
from coincide.data.inline import is_base64, name_of, suffix_of
from coincide.data.messages import Messages
from coincide.data.parse import parse
from coincide.data.subset import write_subset
from coincide.schema import Dataset, UserError
from coincide.store import Store
from tests.data.test_filekind import parquet
from train.data import open_subset


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def picture(colour: str = "red", kind: str = "PNG", size: tuple[int, int] = (8, 6)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, kind)
    return out.getvalue()


RED = picture()
TEXT = base64.b64encode(RED).decode()


def says(image: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "<image>\nwhat?"},
                         {"role": "assistant", "content": "red"}], "images": [image]}  # fmt: skip


def shows(**part: Any) -> dict[str, Any]:
    asked = [part, {"type": "text", "text": "what?"}]
    return {"messages": [{"role": "user", "content": asked},
                         {"role": "assistant", "content": "red"}]}  # fmt: skip


FORMS = {
    "base64": says(TEXT),
    "base64 in lines": says("\n".join(TEXT[i : i + 76] for i in range(0, len(TEXT), 76))),
    "data uri": says(f"data:image/png;base64,{TEXT}"),
    "bytes as base64": says({"bytes": TEXT, "path": "x.png"}),
    "bytes as numbers": says({"bytes": list(RED), "path": None}),
    "openai": shows(type="image_url", image_url={"url": f"data:image/png;base64,{TEXT}"}),
    "anthropic": shows(
        type="image", source={"type": "base64", "media_type": "image/png", "data": TEXT}
    ),
    "axolotl": shows(type="image", base64=TEXT),
    "the cauldron": {"texts": [{"user": "what?", "assistant": "red"}], "images": [{"bytes": TEXT}]},
}


def opened(root: Path, rows: Any, **more: Any) -> Dataset:
    path = root / "rows"
    if not path.exists():
        path.write_text(json.dumps(rows))
    data = Messages(str(path), str(root), **more)
    return data.open(Store(root / "store").ensure(data.step()).path)


def test_every_form_gives_the_same_file(tmp_path: Path) -> None:
    dataset = opened(tmp_path, list(FORMS.values()))
    name = name_of(RED)
    assert {e.images for e in dataset.examples} == {(name,)}
    assert {e.turns[0].text for e in dataset.examples} == {"<image>\nwhat?"}
    assert (tmp_path / name).read_bytes() == RED
    assert [p.name for p in (tmp_path / "inline").rglob("*.*")] == [Path(name).name]
    assert load_image(tmp_path, name).size == (8, 6)


def test_bytes_of_a_parquet_file(tmp_path: Path) -> None:
    """As FineVision and The Cauldron have them; a subset of it trains from its files."""
    colours = ("red", "blue", "green")
    rows = [
        {"images": [{"bytes": picture(c, "JPEG"), "path": None}],
         "texts": [{"user": "what?", "assistant": c}], "source": "vqa"}
        for c in colours
    ]  # fmt: skip
    parquet(rows, tmp_path / "rows")
    dataset = opened(tmp_path, None, source_field="source")
    assert [e.source for e in dataset.examples] == ["vqa"] * 3
    assert all(e.images[0].endswith(".jpg") for e in dataset.examples)
    (tmp_path / "out").mkdir()
    write_subset(tmp_path / "out", dataset, [0, 2], {})
    from types import SimpleNamespace

    job: Any = SimpleNamespace(
        annotations=str(tmp_path / "out" / "subset.json"), image_root=str(tmp_path), blank_rows=[]
    )
    trained = open_subset(job)
    assert [e.images for e in trained.examples] == [dataset.examples[i].images for i in (0, 2)]
    assert [t.text for t in trained.examples[1].turns] == ["<image>\nwhat?", "green"]


def test_inline_pictures_get_the_checks_of_files(tmp_path: Path) -> None:
    """Half a picture, and one that is none, follow on_corrupt_image."""
    cut = base64.b64encode(picture("blue", "PNG", (64, 64))[:90]).decode()
    none = base64.b64encode(b"<html>404</html>" * 5).decode()
    rows = [says(TEXT), says({"bytes": cut}), says({"bytes": none})]
    with pytest.raises(UserError, match="2 x corrupt image: rows 1, 2"):
        opened(tmp_path, rows)
    assert set(opened(tmp_path, rows, on_corrupt_image="drop").dropped) == {1, 2}


def test_the_key_is_that_of_the_content(tmp_path: Path) -> None:
    keys = set()
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "rows").write_text(json.dumps([says(TEXT)]))
        keys.add(Messages(str(tmp_path / place / "rows"), str(tmp_path / place)).step().key)
    assert len(keys) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_root_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir(mode=0o500)
    (tmp_path / "rows").write_text(json.dumps([says(TEXT)]))
    with pytest.raises(UserError, match=r"below data\.images"):
        Messages(str(tmp_path / "rows"), str(root)).step()


def test_a_root_where_a_file_is_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "inline").write_text("in the way")
    with pytest.raises(UserError, match=r"below data\.images, to .*inline"):
        opened(tmp_path, [says(TEXT)])


def test_reading_alone_writes_nothing(tmp_path: Path) -> None:
    assert to_llava(says(TEXT), tmp_path)["image"] == [name_of(RED)]
    assert not list(tmp_path.iterdir())


def test_paths_are_no_base64() -> None:
    assert is_base64(TEXT)
    assert is_base64(base64.b64encode(picture("red", "JPEG")).decode()), "begins with a slash"
    for path in ("coco/train2017/000000000009.jpg", "a" * 80, "9j/" * 40, "iVBORw0KGgo"):
        assert not is_base64(path)
    kinds = {"PNG": ".png", "JPEG": ".jpg", "GIF": ".gif", "WEBP": ".webp", "BMP": ".bmp"}
    assert {kind: suffix_of(picture("red", kind)) for kind in kinds} == kinds


def test_llava_json_says_which_reader_takes_base64(tmp_path: Path) -> None:
    jpeg = base64.b64encode(picture("red", "JPEG")).decode()
    for image in (TEXT, jpeg, f"data:image/png;base64,{TEXT}", "x/" * 3000, {"bytes": TEXT}):
        fault = parse(0, {**says(None), "image": image, "conversations": []}, lambda _: "")[2]
        assert fault
        assert fault.kind == "wrong image field"
        assert "data=messages" in fault.detail
