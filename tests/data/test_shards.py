"""A folder of shards as annotations: all its rows in the order of the names, or a refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from coincide.data.llava_json import LlavaJson
from coincide.data.messages import Messages
from coincide.data.shards import shards_of
from coincide.data.subset import write_subset
from coincide.schema import Dataset, UserError
from coincide.store import Store

Rows = list[dict[str, Any]]


def rows(*numbers: int) -> Rows:
    return [
        {"id": f"r{i}", "image": "a.png",
         "conversations": [{"from": "human", "value": f"<image>\nwhat {i}"},
                           {"from": "gpt", "value": f"a {i}"}]}
        for i in numbers
    ]  # fmt: skip


def lines(path: Path, found: Rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in found))


def table(path: Path, found: Rows) -> None:
    parquet.write_table(pa.Table.from_pylist(found), path)


def listed(path: Path, found: Rows) -> None:
    path.write_text(json.dumps(found))


def opened(folder: Path, source: type[LlavaJson] = LlavaJson) -> tuple[Dataset, LlavaJson]:
    Image.new("RGB", (8, 8)).save(folder.parent / "a.png")
    data = source(str(folder), str(folder.parent))
    return data.open(Store(folder.parent / "store").ensure(data.step()).path), data


WRITERS = {
    "train-{:05d}-of-00003.parquet": table,
    "train-{:05d}-of-00003-0123456789abcdef.parquet": table,
    "{:04d}.parquet": table,
    "part-{:05d}.jsonl": lines,
    "chunk_{}.json": listed,
}


@pytest.mark.parametrize("source", [LlavaJson, Messages])
@pytest.mark.parametrize("name", WRITERS)
def test_shards_are_read_one_after_the_other(
    tmp_path: Path, name: str, source: type[LlavaJson]
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for shard in (2, 0, 1):
        WRITERS[name](folder / name.format(shard), rows(2 * shard, 2 * shard + 1))
    for note in ("README.md", ".gitattributes", "dataset_infos.json", "_SUCCESS", "LICENSE"):
        (folder / note).write_text("{}")
    dataset, data = opened(folder, source)
    assert [(e.row, e.id) for e in dataset.examples] == [(i, f"r{i}") for i in range(6)]
    assert data.size() == 6
    out = tmp_path / "subset"
    out.mkdir()
    write_subset(out, dataset, [1, 4], {})
    assert [row["id"] for row in json.loads((out / "subset.json").read_text())] == ["r1", "r4"]


def test_the_key_follows_the_rows_and_not_the_names(tmp_path: Path) -> None:
    keys = []
    for place, names in (("one", "ab"), ("two", "cd"), ("three", "ba")):
        folder = tmp_path / place
        folder.mkdir()
        for number, name in enumerate(names):
            lines(folder / f"{name}.jsonl", rows(number))
        keys.append(opened(folder)[1].step().key)
    assert keys[0] == keys[1] != keys[2]
    lines(tmp_path / "one" / "b.jsonl", rows(1, 2))
    assert opened(tmp_path / "one")[1].step().key != keys[0]
    assert opened(tmp_path / "one")[1].size() == 3


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "holds nothing"),
        (["README.md"], "without a Parquet, JSON or JSON lines file; it holds 'README.md'"),
        (["a.json", "b.parquet"], "several kinds"),
        (["train-00000-of-00002.parquet"], "1 shards of 2"),
        (["train-00000-of-00002.parquet", "train-00001-of-00003.parquet"], "2 shards of 2 and 3"),
        (["train-00000-of-00001.parquet", "test-00000-of-00001.parquet"], "'test', 'train'"),
        (["a-00000-of-00001.parquet", "b-00000-of-00001.parquet"], "'a', 'b'"),
        (["a-00000-of-00001.parquet", "extra.parquet"], "several splits or datasets"),
        (["train.jsonl", "validation.jsonl"], "'train', 'validation'"),
        (["my_train.jsonl", "my_test.jsonl"], "'test', 'train'"),
        (["data-00000-of-00001.arrow", "state.json"], "not read as shards"),
        (["a.json", "b.jsonl.zst"], "not read as shards"),
        (["a.jsonl", "b.jsonl.incomplete"], "'b.jsonl.incomplete': downloads that did not end"),
        (["a.jsonl", "b.jsonl.part"], "downloads that did not end"),
    ],
)  # fmt: skip
def test_a_folder_that_is_not_one_whole_dataset_is_refused(
    tmp_path: Path, names: list[str], said: str
) -> None:
    for name in names:
        (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=said):
        LlavaJson(str(tmp_path), str(tmp_path)).step()


def test_folders_below_are_named(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match="It has the folders 'train': name one of them"):
        shards_of(tmp_path)
