"""Pictures are read in place from Parquet shards, whatever form the column has."""

from __future__ import annotations

import base64
import io
import os
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from coincide.data import cells
from coincide.data.cells import PictureCell, cell_of, read_cell
from coincide.data.check import check_images
from coincide.data.images import MissingImage, UnsafePath, load_image, size_of
from coincide.data.listing import missing_files


def encoded(
    shade: int, form: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (6, 4)
) -> bytes:
    out = io.BytesIO()
    Image.new("L", size, shade).convert(mode).save(out, form)
    return out.getvalue()


def shown(root: Path, name: str) -> int:
    return int(np.asarray(load_image(root, name))[0, 0, 0])


HF = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
COLUMNS: dict[str, tuple[pa.DataType, Any]] = {
    "struct": (HF, lambda b: {"bytes": b, "path": "x.png"}),
    "struct with large binary": (
        pa.struct([("path", pa.large_string()), ("bytes", pa.large_binary())]),
        lambda b: {"bytes": b, "path": None},
    ),
    "list of structs": (pa.list_(HF), lambda b: [{"bytes": b, "path": None}]),
    "large list": (pa.large_list(HF), lambda b: [{"bytes": b, "path": None}]),
    "fixed list": (pa.list_(HF, 1), lambda b: [{"bytes": b, "path": None}]),
    "binary": (pa.binary(), lambda b: b),
    "list of binary": (pa.list_(pa.binary()), lambda b: [b]),
    "base64": (pa.string(), lambda b: base64.b64encode(b).decode()),
    "data uri": (
        pa.large_string(),
        lambda b: f"data:image/png;base64,{base64.b64encode(b).decode()}",
    ),
    "dictionary": (pa.dictionary(pa.int32(), pa.binary()), lambda b: b),
}


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("keep", [1 << 20, 0], ids=["group", "streamed"])
def test_a_picture_is_read_whatever_its_column_holds(
    tmp_path: Path, kind: str, keep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "KEEP", keep)
    type_, put = COLUMNS[kind]
    values = [put(encoded(shade)) for shade in range(0, 200, 5)]
    column = pa.array(values, type_.value_type if pa.types.is_dictionary(type_) else type_)
    table = pa.table({"a.b c": column.dictionary_encode() if "dict" in kind else column})
    (tmp_path / "sub").mkdir()
    parquet.write_table(table, tmp_path / "sub" / "x.PARQUET", row_group_size=17)
    for row in (0, 39, 16, 17, 18, 3, 33, 0):
        assert shown(tmp_path, f"sub/x.PARQUET#{row}/a.b c/0") == 5 * row
    assert size_of(tmp_path, "sub/x.PARQUET#7/a.b c/0") == (6, 4)


def shard(path: Path, rows: list[list[bytes | None] | None]) -> Path:
    column = [r if r is None else [{"bytes": b, "path": None} for b in r] for r in rows]
    table = pa.table({"images": pa.array(column, pa.list_(HF)), "n": list(range(len(rows)))})
    parquet.write_table(table, path, row_group_size=1)
    return path


def test_formats_and_modes_become_rgb_by_the_same_rule_as_files(tmp_path: Path) -> None:
    made = {
        "palette": encoded(90, "GIF", "P"), "cmyk": encoded(90, "JPEG", "CMYK"),
        "alpha": encoded(90, "PNG", "RGBA"), "webp": encoded(90, "WEBP"), "16": b"",
    }  # fmt: skip
    deep = io.BytesIO()
    Image.fromarray(np.full((3, 3), 0x5A00, np.uint16)).save(deep, "PNG")
    made["16"] = deep.getvalue()
    shard(tmp_path / "a.parquet", [list(made.values())])
    for number, content in enumerate(made.values()):
        (tmp_path / "f").write_bytes(content)
        inside = load_image(tmp_path, f"a.parquet#0/images/{number}")
        assert inside.mode == "RGB"
        assert inside.tobytes() == load_image(tmp_path, "f").tobytes()


def test_what_is_not_there_is_missing_and_what_does_not_decode_is_corrupt(tmp_path: Path) -> None:
    png = encoded(9)
    shard(
        tmp_path / "a.parquet",
        [[png], [], None, [None], [png[: len(png) // 2 + 8], b"", b"<html>"]],
    )
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b#c.png").write_bytes(png)
    missing = [
        "a.parquet#1/images/0", "a.parquet#2/images/0", "a.parquet#3/images/0",
        "a.parquet#0/images/1", "a.parquet#5/images/0", "a.parquet#0/image/0",
        "none.parquet#0/images/0", "a.parquet#0/n/1",
    ]  # fmt: skip
    corrupt = {
        "a.parquet#4/images/0": "does not decode", "a.parquet#4/images/1": "zero bytes",
        "a.parquet#4/images/2": "HTML", "cut.parquet#0/images/0": "broke off",
    }  # fmt: skip
    found = check_images(tmp_path, [*missing, *corrupt, "a.parquet#0/images/0", "b#c.png"])
    assert [name for name, f in found.items() if f.status == "missing"] == sorted(missing)
    assert {n for n, f in found.items() if f.status == "corrupt"} == corrupt.keys()
    assert all(says in found[name].detail for name, says in corrupt.items())
    assert found["a.parquet#0/images/0"].status == found["b#c.png"].status == "ok"
    # by footers alone
    assert missing_files(tmp_path, found) == set(missing[4:7])
    with pytest.raises(MissingImage, match="has 5 rows"):
        load_image(tmp_path, missing[4])
    for name in ("../a.parquet#0/images/0", "/a.parquet#0/images/0"):
        with pytest.raises(UnsafePath):
            load_image(tmp_path, name)
        with pytest.raises(UnsafePath):
            missing_files(tmp_path, [name])


def test_pictures_of_a_shard_are_checked_in_the_order_of_its_rows(tmp_path: Path) -> None:
    shard(tmp_path / "a.parquet", [[encoded(n)] * 2 for n in range(12)])
    names = [f"a.parquet#{row}/images/{n}" for row in range(12) for n in range(2)]
    assert list(check_images(tmp_path, set(names))) == names
    assert cell_of(names[23]) == PictureCell("a.parquet", 11, "images", 1)
    assert [str(cell_of(name)) for name in names] == names


def test_row_groups_are_kept_by_their_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "KEEP", 1500)
    shard(tmp_path / "a.parquet", [[bytes(400)] for _ in range(20)])
    for row in (*range(20), 19, 18):
        read_cell(tmp_path / "a.parquet", PictureCell("a.parquet", row, "images", 0))
        assert cells._state.size <= 1500
        assert cells._state.size == sum(c.nbytes for c in cells._state.groups.values())
    assert 1 < len(cells._state.groups) < 5


def test_a_shard_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.parquet", [[encoded(1)]])
    assert shown(tmp_path, "a.parquet#0/images/0") == 1
    shard(tmp_path / "b", [[encoded(2)], [encoded(3)]])
    os.replace(tmp_path / "b", path)
    assert shown(tmp_path, "a.parquet#0/images/0") == 2


def _shades(job: tuple[Path, list[int]]) -> list[int]:
    return [shown(job[0], f"a.parquet#{row}/images/0") for row in job[1]]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_forked_processes_and_threads_read_the_same_shard(tmp_path: Path) -> None:
    shard(tmp_path / "a.parquet", [[encoded(n)] for n in range(60)])
    orders = [np.random.default_rng(seed).permutation(60).tolist() for seed in range(4)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(_shades, [(tmp_path, order) for order in orders])) == orders
        with get_context("fork").Pool(2) as forked:
            assert forked.map(_shades, [(tmp_path, order) for order in orders]) == orders
