"""Pools are fetched from a hub: listed once, whole, resumed, archives joined and unpacked."""

from __future__ import annotations

from pathlib import Path

import pytest

from coincide.data.cambrian import Cambrian
from coincide.data.hubfiles import HubFiles, archive_of
from coincide.data.pool import ParquetPool
from coincide.data.prepare import prepare
from coincide.data.presence import WORK
from coincide.schema import UserError
from coincide.store import Store
from tests.data.test_pool import cauldron
from tests.mini.hub import serving
from tests.pools.made import cambrian_7m


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_pool_is_fetched_once_and_mended_where_it_broke(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cauldron(tmp_path / "hub")
    (tmp_path / "hub" / "notes.txt").write_text("not wanted")
    root = tmp_path / "pool"
    hub = HubFiles("owner/cauldron", about=10**6)
    source = ParquetPool(str(root), name="mini", root=str(root), hub=hub, expect="published")
    (before,) = source.requirements()
    assert (before.met, before.bytes, before.fatal) == (False, 10**6, True)
    assert "prepare data=mini" in before.remedy
    with serving({"datasets/owner/cauldron": tmp_path / "hub"}, {}) as (address, asked):
        monkeypatch.setenv("HF_ENDPOINT", address)
        prepare(source)
        names = sorted(name for name in asked)
        assert names == sorted(
            str(p.relative_to(tmp_path / "hub"))
            for p in (tmp_path / "hub").rglob("*")
            if p.is_file() and p.name != "notes.txt"
        )
        prepare(source)
        assert len(asked) == len(names)
        shard = next(root.glob("ai2d/*.parquet"))
        whole = shard.read_bytes()
        shard.write_bytes(whole[:-9])
        cut, *_ = source.requirements()
        assert (cut.met, cut.bytes) == (False, len(whole))
        assert "2 of 3 files" in cut.found
        prepare(source)
        assert shard.read_bytes() == whole
    assert "3 files" in capsys.readouterr().out
    assert source.requirements()[0].met
    artifact = Store(tmp_path / "store").ensure(source.step())
    assert artifact.facts["sources"] == {"ai2d": 5, "websight": 1}


def test_without_a_hub_it_is_said_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "1")
    source = ParquetPool(str(tmp_path), root=str(tmp_path), hub=HubFiles("owner/none"))
    with pytest.raises(UserError, match="hf download --repo-type dataset owner/none"):
        prepare(source)


def test_cambrian_s_archives_are_joined_and_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cambrian_7m(tmp_path / "hub")
    (tmp_path / "hub" / ".git.tar.gz").write_bytes(b"not wanted")
    root = tmp_path / "pool"
    files = ("jsons/Cambrian7M_withsystemprompt.jsonl", "*.tar.gz", "*.tar.gz_part*")
    source = Cambrian(
        str(root / files[0]), str(root), root=str(root), hub=HubFiles("nyu/c", files=files)
    )
    with serving({"datasets/nyu/c": tmp_path / "hub"}, {}) as (address, asked):
        monkeypatch.setenv("HF_ENDPOINT", address)
        prepare(source)
        once = len(asked)
        prepare(source)
        assert once == len(asked) == 13
    assert source.requirements()[0].met
    assert not list((root / WORK).glob("*.tar.gz*[!e]"))  # the marks of what is done alone
    dataset = source.open(Store(tmp_path / "store").ensure(source.step()).path)
    assert [row.images for row in dataset.examples] == [
        (f"{'coco' if n < 6 else 'allava'}/{n}.png",) for n in range(12)
    ]
    assert [row.source for row in dataset.examples] == ["coco.json"] * 6 + ["allava.json"] * 6
    assert dataset.examples[1].turns[0].text == "<image>\nwhat colour is number 1?"


def test_parts_of_archives_are_known_by_their_names() -> None:
    known = {
        "allava.tar.gz_part10": "allava.tar.gz", "a/coco.tar.00": "a/coco.tar", "x.tar.aa": "x.tar",
        "coco.tar.gz": "coco.tar.gz", "x.zip.part1": "x.zip", "a.parquet": "", "README.md": "",
    }  # fmt: skip
    assert {name: archive_of(name) for name in known} == known
