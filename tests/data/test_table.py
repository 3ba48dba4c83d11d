"""The table of rows: everything comes out as it went in, whatever becomes of its file."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coincide.data import blocks, columns, kept, table
from coincide.data.blocks import ParsedRow
from coincide.data.kept import parsed
from coincide.data.llava_json import LlavaJson, folder_source, read
from coincide.data.parse import parse
from coincide.data.reasons import Reasons, merged
from coincide.data.rows import scan
from coincide.data.subset import write_subset
from coincide.data.table import Rows, collect_rows, open_rows, write_rows
from coincide.schema import UserError
from coincide.store import Store
from tests.data.files import row, text_row, turn, write

TEXTS = ("", " ", "a\0b", "ä\u2028\x85\r\n\t", "\U0001f600 \u202e \ufeff", "x" * 9000, '"\\u0041\\')
ODD: list[dict[str, Any]] = [
    *(
        {"id": text, "conversations": [turn("human", text), turn("gpt", text)]} for text in TEXTS
    ),
    {"id": 7, "conversations": [turn("gpt", "left out"), *(turn("human", "q"), turn("gpt", "a"))]},
    {"id": "\ud800", "image": ["a.png", "c/\udcff.png"], "note": "\udc00", "conversations": [
        turn("human", "<image><image>"), {**turn("gpt", "b"), "loss": False},
        turn("human", "again"), {**turn("gpt", "c"), "weight": 1}]},
    row("several", ["a.png", "a.png"], "<image> <image>", extra={"b": [1.5, None, 10**30]}),
    text_row(None, source="x"),
    {"id": "faulty", "image": "a.png", "conversations": [turn("human", "<image>")]},
    text_row("7"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 3)
    monkeypatch.setattr(table, "RESIDENT", 1)


def odd_file(folder: Path) -> Path:
    """The odd rows, written in several ways: escaped, in letters, with blanks and by hand."""
    texts = [
        json.dumps(value, ensure_ascii=n % 2 == 0 or r"\udc" in repr(value)) + " " * (n % 3)
        for n, value in enumerate(ODD)
    ]
    asked, said = '{"value":"\\u0071", "from":"human"}', '{"from":"gpt","value":"\\/"}'
    texts.append(f'{{"conversations" : [{asked},{said}]}}')
    joined = ",\r\n".join(texts)
    path = folder / "odd.json"
    path.write_bytes(f"[\n{joined}]".encode())
    return path


def rows_of(path: Path) -> Iterator[ParsedRow]:
    return parsed(scan(path), folder_source, tags_as_text=True)


@pytest.mark.parametrize("where", ["memory", "temporary file", "file"])
def test_rows_come_out_byte_for_byte(
    tmp_path: Path, where: str, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = odd_file(tmp_path)
    values = list(scan(path))
    whole = [parse(n, value, folder_source, tags_as_text=True) for n, _, value in values]
    if where == "file":
        assert write_rows(tmp_path / "x.arrow", rows_of(path)) == len(values)
        found = open_rows(tmp_path / "x.arrow")
    else:
        monkeypatch.setattr(table, "IN_MEMORY", 2**20 if where == "memory" else 10)
        found = collect_rows(rows_of(path))
    assert found == [example for example, _, _ in whole]
    assert list(found.texts()) == [text for _, text, _ in values]
    assert list(found.texts([3, 1])) == [values[3][1], values[1][1]]
    faults = [(n, fault.kind, fault.detail) for n, (_, _, fault) in enumerate(whole) if fault]
    assert list(found.faults()) == faults
    assert [kind for _, kind, _ in faults] == ["no answer"]
    assert found.column("left_out").tolist() == [left_out for _, left_out, _ in whole]
    assert found.unlearnt() == 1
    assert pickle.loads(pickle.dumps(found)) == found
    assert found[-1] == found[len(found) - 1] == found[np.int64(len(found) - 1)]
    assert found[2:5] == tuple(found)[2:5]
    with pytest.raises(IndexError):
        found[len(found)]


def test_columns_are_those_of_the_examples(tmp_path: Path, small_blocks: None) -> None:
    found = collect_rows(rows_of(odd_file(tmp_path)))
    plain = list(found)
    for column in (columns.pictured, columns.answered, columns.source_strings, columns.id_strings):
        assert column(found).tolist() == column(plain).tolist()  # type: ignore[operator]
    assert columns.sources(found).names == columns.sources(plain).names
    assert columns.sources(found).counts() == columns.sources(plain).counts()
    assert list(columns.ids(found)) == list(columns.ids(plain)) == [e.id for e in plain]
    ours, theirs = columns.shown(found), columns.shown(plain)
    assert list(ours.texts()) == list(theirs.texts()) == ["a.png", "c/\udcff.png"]
    assert ours.codes.tolist() == theirs.codes.tolist() == [0, 1, 0, 0]
    assert ours.starts.tolist() == theirs.starts.tolist()
    assert ours.row_of.tolist() == [8, 8, 9, 9]
    assert found.repeated_ids() == (["7"], 3)


def test_a_table_takes_rows_in_their_order_alone(tmp_path: Path) -> None:
    path = write(tmp_path, [text_row("a"), text_row("b")])
    with pytest.raises(ValueError, match="row 1 came as number 0"):
        collect_rows(list(rows_of(path))[1:])
    assert len(collect_rows([])) == 0
    write_rows(tmp_path / "x.arrow", rows_of(path))
    data = (tmp_path / "x.arrow").read_bytes()
    for broken in (data[:-9], b"", data.replace(b"unlearnt", b"unlernt_")):
        (tmp_path / "y.arrow").write_bytes(broken)
        with pytest.raises((OSError, ValueError)):
            open_rows(tmp_path / "y.arrow")


def test_reasons_are_a_mapping_from_rows() -> None:
    found = Reasons.of(9, [(3, "b"), (np.array([5, 1]), "a"), (3, "c")])
    assert dict(found) == {1: "a", 3: "c", 5: "a"} == found
    assert (3 in found, 2 in found, 99 in found, "3" in found, np.int64(5) in found) == (
        True, False, False, False, True)  # fmt: skip
    assert found.get(2) is None
    assert merged(9, {3: "x", 8: "y"}, found, {}) == {1: "a", 3: "c", 5: "a", 8: "y"}
    with pytest.raises(KeyError):
        found[2]


# --- in the store -----------------------------------------------------------------------------


def source(folder: Path, **options: Any) -> LlavaJson:
    Image.new("RGB", (4, 4)).save(folder / "a.png")
    settings = {"on_bad_row": "drop", "on_missing_image": "drop", **options}
    return LlavaJson(annotations=str(odd_file(folder)), images=str(folder), **settings)


def tables(store: Store) -> list[Path]:
    return sorted((store.root / "rows").glob("[!.]*/rows.arrow"))


@pytest.fixture
def kept_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of small annotations are kept in the store, too."""
    monkeypatch.setattr(kept, "SMALL", 0)


def subset(folder: Path, data: LlavaJson, artifact: Path) -> bytes:
    from coincide.data import llava_json

    llava_json._open.cache_clear()
    folder.mkdir(exist_ok=True)
    write_subset(folder, data.open(artifact), [0, 2, 7, 9], {})
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))


def test_a_kept_table_changes_no_key_and_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, one, two = source(tmp_path), Store(tmp_path / "one"), Store(tmp_path / "two")
    plain = one.ensure(data.step())
    expected = subset(tmp_path / "x", data, plain.path)
    assert not tables(one)
    monkeypatch.setattr(kept, "SMALL", 0)
    again = two.ensure(data.step())
    assert len(tables(two)) == 1
    assert again.name == plain.name
    assert again.files == plain.files
    monkeypatch.setattr(LlavaJson, "rows", None)  # nothing reads the annotations again
    assert subset(tmp_path / "y", data, again.path) == expected
    said = json.loads((tmp_path / "y" / "subset.json").read_text())
    assert said == [ODD[n] for n in (0, 2, 7, 9)]


def test_a_damaged_table_is_made_again(tmp_path: Path, kept_always: None) -> None:
    data, store = source(tmp_path), Store(tmp_path / "store")
    artifact = store.ensure(data.step())
    expected = subset(tmp_path / "x", data, artifact.path)
    (path,) = tables(store)
    whole = path.read_bytes()
    for broken in (whole.replace(b"q", b"r"), whole[:100], b"", None):
        path.unlink()
        if broken is not None:
            path.write_bytes(broken)
        assert subset(tmp_path / "y", data, artifact.path) == expected
        assert path.read_bytes() == whole


def test_annotations_that_change_while_they_are_read_are_refused(
    tmp_path: Path, kept_always: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, store = source(tmp_path), Store(tmp_path / "store")
    step, real = data.step(), LlavaJson.rows

    def slow(self: LlavaJson, annotations: Path) -> Iterator[Any]:
        for found in real(self, annotations):
            yield found
            os.utime(annotations, ns=(1, found[0]))

    monkeypatch.setattr(LlavaJson, "rows", slow)
    with pytest.raises(UserError, match="changed while it was read"):
        store.ensure(step)
    assert not tables(store)


def test_a_kill_leaves_no_half_table_and_two_processes_make_one(
    tmp_path: Path, kept_always: None
) -> None:
    data, store = source(tmp_path), Store(tmp_path / "store")
    step = data.step()
    fork = multiprocessing.get_context("fork")

    def killed() -> None:
        real = LlavaJson.rows

        def dies(self: LlavaJson, annotations: Path) -> Iterator[Any]:
            for found in real(self, annotations):
                yield found
                if found[0] == 5:
                    os.kill(os.getpid(), signal.SIGKILL)

        LlavaJson.rows = dies  # type: ignore[method-assign, assignment]
        store.ensure(step)

    process = fork.Process(target=killed)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not tables(store)
    both = [fork.Process(target=store.ensure, args=(step,)) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert [each.exitcode for each in both] == [0, 0]
    assert len(tables(store)) == 1
    assert not [path for path in (store.root / "rows").iterdir() if path.name.startswith(".")]


def test_a_store_that_cannot_be_written_costs_only_time(
    tmp_path: Path, kept_always: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, store = source(tmp_path), Store(tmp_path / "store")
    artifact = store.ensure(data.step())
    expected = subset(tmp_path / "x", data, artifact.path)
    (path,) = tables(store)
    for each in (path, *path.parent.iterdir()):
        each.unlink(missing_ok=True)
    path.parent.rmdir()

    def refused(self: Store, step: Any) -> Any:
        raise self.as_disk_error(PermissionError(13, "read-only"), [step])

    monkeypatch.setattr(Store, "ensure", refused)
    monkeypatch.setattr(kept.os, "access", lambda path, mode: False)
    assert subset(tmp_path / "y", data, artifact.path) == expected


def test_what_a_training_reads_is_kept_beside_it(tmp_path: Path, kept_always: None) -> None:
    from coincide.store import Build, Step

    def build(build: Build) -> dict[str, Any]:
        (build.dir / "subset.json").write_bytes(odd_file(tmp_path).read_bytes())
        return {}

    store = Store(tmp_path / "store")
    path = store.ensure(Step("subset", "some", 1, {}, build)).path / "subset.json"
    found = read(path, tmp_path, name="subset", on_bad_row="drop", on_missing_image="blank",
                 tags_as_text=True)  # fmt: skip
    assert isinstance(found.examples, Rows)
    assert [each.parent.name.rpartition("-")[0] for each in tables(store)] == ["some"]
    again = read(odd_file(tmp_path), tmp_path, name="x", on_bad_row="drop",
                 on_missing_image="blank", tags_as_text=True)  # fmt: skip
    assert found.examples == again.examples
    assert len(tables(store)) == 1


def test_a_shard_of_pictures_is_content_as_its_file(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    def shard(colour: str) -> None:
        Image.new("RGB", (4, 4), colour).save(tmp_path / "p.png")
        cells = [{"bytes": (tmp_path / "p.png").read_bytes()}] * 2
        parquet.write_table(pa.table({"image": cells}), tmp_path / "s.parquet")

    shard("red")
    rows = [
        row("a", "s.parquet#0/image/0"),
        row("b", "s.parquet#1/image/0"),
        row("c", "s.parquet#9/image/0"),
    ]
    data = LlavaJson(str(write(tmp_path, rows)), str(tmp_path), on_missing_image="drop")
    store = Store(tmp_path / "store")
    step = data.step()
    assert set(data.open(store.ensure(step).path).dropped) == {2}
    shard("blue")
    assert data.step().key != step.key
    shard("red")
    assert data.step().key == step.key
