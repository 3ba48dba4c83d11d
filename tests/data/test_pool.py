"""Miniatures of the pools, with their oddities, are read in place and checked as stated."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from coincide.data.pool import ParquetPool
from coincide.schema import Dataset, UserError
from coincide.store import Store

HF = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TEXTS = pa.list_(
    pa.struct([("user", pa.string()), ("assistant", pa.string()), ("source", pa.string())])
)
SAID = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def png(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, 0, 0)).save(out, "PNG")
    return out.getvalue()


def held(*found: bytes | None) -> list[dict[str, Any]]:
    return [{"bytes": b, "path": None} for b in found]


def write(path: Path, columns: dict[str, Any], group: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), path, row_group_size=group)
    return path


def asked(*pairs: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"user": q, "assistant": a, "source": "x"} for q, a in pairs]


def spoken(*texts: str, first: str = "human") -> list[dict[str, str]]:
    roles = ["human", "gpt"] if first == "human" else ["gpt", "human"]
    return [{"from": roles[n % 2], "value": text} for n, text in enumerate(texts)]


def opened(root: Path, store: Path, **options: Any) -> Dataset:
    data = ParquetPool(str(root), **options)
    return data.open(Store(store).ensure(data.step()).path)


def cauldron(root: Path) -> None:
    """Lists of pictures, texts of questions and answers; one folder a dataset."""
    name = "train-00000-of-00001-0123456789abcdef.parquet"
    write(root / "ai2d" / name, {
        "images": pa.array([held(png(1)), held(png(2), png(3)), [], None, held(png(1))],
                           pa.list_(HF)),
        "texts": pa.array([asked(("q0", "a0"), ("q1", "a1")), asked(("which?", "B")),
                           asked(("2+2", "4")), asked(("none", "n")), asked(("again", ""))], TEXTS),
    })  # fmt: skip
    write(root / "websight" / name, {
        "images": pa.array([held(png(2))], pa.large_list(HF)),
        "texts": pa.array([asked(("Write the code.", "<html><img src='a.png'></html>"))], TEXTS),
    })  # fmt: skip
    (root / "README.md").write_text(
        "---\ndataset_info:\n- config_name: ai2d\n  splits:\n  - name: train\n    num_examples: 5\n"
        "- config_name: websight\n  splits:\n  - name: train\n    num_examples: 1\n---\n# card\n"
    )


def test_the_cauldron_rows_have_their_pictures_before_the_first_question(tmp_path: Path) -> None:
    cauldron(tmp_path / "pool")
    rows = opened(tmp_path / "pool", tmp_path / "s", expect="published", parts=2).examples
    a, w = "ai2d/train-00000-of-00001-0123456789abcdef.parquet", "websight"
    assert [row.source for row in rows] == ["ai2d"] * 5 + ["websight"]
    assert [row.images for row in rows] == [
        (f"{a}#0/images/0",), (f"{a}#1/images/0", f"{a}#1/images/1"), (), (),
        (f"{a}#0/images/0",), (f"{a}#1/images/0",),
    ]  # fmt: skip
    assert [t.text for t in rows[0].turns] == ["<image>\nq0", "a0", "q1", "a1"]
    assert rows[1].turns[0].text == "<image>\n<image>\nwhich?"
    assert rows[2].turns[0].text == "2+2"
    assert rows[5].id == f"{w}/{a.partition('/')[2]}#0"
    assert not list((tmp_path / "pool").rglob("*.png"))


def test_llava_onevision_rows_with_null_pictures_system_prompts_and_twice_the_same_id(
    tmp_path: Path,
) -> None:
    root = tmp_path / "pool"
    talk = [
        spoken("<image>\nq", "a"), spoken("no picture", "a"),
        spoken("greeting", "q <image>", "a", first="gpt"),
        [{"from": "system", "value": "s"}, *spoken("q", "a")], spoken("<image><image>", "a"), None,
    ]  # fmt: skip
    images = [held(png(n))[0] if n != 1 else None for n in range(5)] + [
        {"bytes": None, "path": None}
    ]
    write(root / "CLEVR-Math(MathV360K)" / "train-00000-of-00002.parquet", {
        "id": ["1", "1", "2", "3", "4", "5"], "image": pa.array(images, HF),
        "conversations": pa.array(talk, SAID), "data_source": ["CLEVR"] * 6,
    })  # fmt: skip
    write(root / "CLEVR-Math(MathV360K)" / "train-00001-of-00002.parquet", {  # another schema
        "id": pa.array(["6"], pa.large_string()),
        "conversations": pa.array([spoken("q", "a")], SAID),
        "image": pa.nulls(1),
        "data_source": pa.array(["CLEVR"]).dictionary_encode(),
    })  # fmt: skip
    data = ParquetPool(str(root), on_bad_row="drop", source_field="data_source")
    dataset = data.open(Store(tmp_path / "s").ensure(data.step()).path)
    rows = dataset.examples
    assert dict(dataset.dropped) == {4: "more <image> than images", 5: "no conversation"}
    assert [len(row.images) for row in rows] == [1, 0, 1, 1, 0, 0, 0]
    assert [row.id for row in rows] == ["1", "1", "2", "3", "4", "", "6"]
    assert [t.text for t in rows[2].turns] == ["q <image>", "a"]
    assert rows[3].turns[0].text == "<image>\nq"  # the system prompt is left out
    assert {row.source for row in rows if row.id} == {"CLEVR"}


def test_finevision_ratings_are_notes(tmp_path: Path) -> None:
    root = tmp_path / "pool"
    rated = {
        f"{name}_{what}": pa.array([[5, 4], None] if what == "ratings" else [4, None])
        for name in ("relevance", "image_correspondence", "visual_dependency", "formatting")
        for what in ("ratings", "min")
    }
    write(root / "chartqa" / "train-00000-of-00001.parquet", {
        "images": pa.array([held(png(1)), held(png(2))], pa.list_(HF)),
        "texts": pa.array([asked(("<image>q", "a"), ("r", "b")), asked(("q <image_1>", "a"))],
                          TEXTS),
        "source": ["chartqa", "chartqa"], **rated,
    })  # fmt: skip
    rows = opened(root, tmp_path / "s").examples
    assert [t.text for t in rows[0].turns] == ["<image>q", "a", "r", "b"]
    assert rows[1].turns[0].text == "<image>\nq <image_1>"
    assert rows[0].source == "chartqa"


def test_pictures_that_are_files_and_pictures_inside_are_read_side_by_side(tmp_path: Path) -> None:
    root = tmp_path / "pool"
    (root / "pics").mkdir(parents=True)
    (root / "pics" / "a.png").write_bytes(png(7))
    write(root / "mixed.parquet", {
        "picture": pa.array([
            {"bytes": None, "path": "pics/a.png"}, {"bytes": png(1), "path": "b.png"},
            {"bytes": None, "path": "lost.png"}, {"bytes": b"nothing", "path": None},
        ], HF),
        "question": ["q0", "q1", "q2", "q3"], "caption": ["a0", "a1", "a2", "a3"],
    })  # fmt: skip
    options = {
        "columns": {"answer": "caption"},
        "on_missing_image": "drop",
        "on_corrupt_image": "drop",
    }
    data = ParquetPool(str(root), **options)  # type: ignore[arg-type]
    dataset = data.open(Store(tmp_path / "s").ensure(data.step()).path)
    assert [row.images for row in dataset.examples][:2] == [
        ("pics/a.png",),
        ("mixed.parquet#1/picture/0",),
    ]
    assert dict(dataset.dropped) == {2: "missing image", 3: "corrupt image"}
    before = data.step().key
    (root / "pics" / "a.png").write_bytes(png(8))
    assert data.step().key != before


REFUSED = {
    "twice": (
        "shards of one number",
        ["a/train-00000-of-00001-aa.parquet", "a/train-00000-of-00001-bb.parquet"],
    ),
    "lacking": ("1 shards of 3", ["a/train-00000-of-00003.parquet"]),
    "splits": ("splits test, train", ["a/train/0000.parquet", "a/test/0000.parquet"]),
    "unfinished": ("did not end", ["a/0.parquet", "a/1.parquet.incomplete"]),
    "other rows": ("no Parquet", ["a/0.parquet", "b.tar"]),
    "nothing": ("no Parquet file", ["README.md"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_that_is_no_whole_pool_is_refused(tmp_path: Path, case: str) -> None:
    says, names = REFUSED[case]
    for name in names:
        write(tmp_path / "p" / name, {"texts": pa.array([asked(("q", "a"))], TEXTS)})
    with pytest.raises(UserError, match=says):
        ParquetPool(str(tmp_path / "p")).step()


def test_columns_that_leave_a_doubt_are_refused_and_named_ones_are_read(tmp_path: Path) -> None:
    root = tmp_path / "p"
    write(root / "0.parquet", {
        "left": [png(1), png(3)], "right": [png(2), None], "depth": [b"d", b"d"],
        "question": ["q", "q"], "answer": ["a", "b"],
    })  # fmt: skip
    with pytest.raises(UserError, match="'left', 'right', 'depth' hold bytes"):
        ParquetPool(str(root)).step()
    with pytest.raises(UserError, match="no column 'middle'"):
        ParquetPool(str(root), columns={"images": "middle"}).step()
    rows = opened(root, tmp_path / "s", columns={"images": ["left", "right"]}).examples
    assert [row.images for row in rows] == [
        ("0.parquet#0/left/0", "0.parquet#0/right/0"), ("0.parquet#1/left/0",),
    ]  # fmt: skip
    (root / "0.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match="git-lfs"):
        ParquetPool(str(root)).step()


def test_counts_that_are_not_as_stated_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "pool"
    cauldron(root)
    with pytest.raises(UserError, match="2 parts, 50 published"):
        opened(root, tmp_path / "s", expect="published", parts=50)
    card = root / "README.md"
    card.write_text(card.read_text().replace("num_examples: 5", "num_examples: 7"))
    with pytest.raises(UserError, match="ai2d: 5 rows, 7 stated"):
        opened(root, tmp_path / "s", expect="published")
    assert len(opened(root, tmp_path / "s").examples) == 6
    files = ["websight/*.parquet"]
    assert len(opened(root, tmp_path / "s", files=files).examples) == 1


def test_the_key_follows_what_is_read(tmp_path: Path) -> None:
    root = tmp_path / "pool"
    cauldron(root)
    plain, part = ParquetPool(str(root)), ParquetPool(str(root), files=["ai2d/*.parquet"])
    assert (plain.size(), part.size()) == (6, 5)
    assert plain.step().key != part.step().key
    root.rename(tmp_path / "moved")
    assert ParquetPool(str(tmp_path / "moved")).step().key == plain_key(tmp_path)


def plain_key(tmp_path: Path) -> str:
    cauldron(tmp_path / "again")
    return ParquetPool(str(tmp_path / "again")).step().key


def test_the_rows_of_a_subset_are_llava_json_with_pictures_by_name(tmp_path: Path) -> None:
    from coincide.data.subset import write_subset

    cauldron(tmp_path / "pool")
    (tmp_path / "out").mkdir()
    write_subset(tmp_path / "out", opened(tmp_path / "pool", tmp_path / "s"), [1, 5], {})
    rows = json.loads((tmp_path / "out" / "subset.json").read_text())
    assert rows[0]["image"][1].endswith("#1/images/1")
    assert rows[1]["source"] == "websight"
