"""data=llava_json: what its key depends on, what its artifact says, what it refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

import coincide.data.digest as digest
from coincide.data.llava_json import LlavaJson
from coincide.schema import UserError
from coincide.store import Store
from tests.data.files import row, text_row, write

ROWS = [row("a"), row("b", "pics/b.png"), text_row("t"), row("c", "gone.png")]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def source(root: Path, rows: Any = ROWS, **options: Any) -> LlavaJson:
    path = write(root, rows, ("pics/a.png", "pics/b.png"))
    options = {"on_missing_image": "drop", **options}
    return LlavaJson(annotations=str(path), images=str(root), **options)


def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose bytes are read from now on."""
    seen: list[str] = []
    real = digest.sha256_file
    monkeypatch.setattr(digest, "sha256_file", lambda p: seen.append(p.name) or real(p))
    return seen


def touched(path: Path, nanoseconds: int) -> None:
    os.utime(path, ns=(nanoseconds, nanoseconds))


def test_artifact(tmp_path: Path) -> None:
    data = source(tmp_path)
    step = data.step()
    assert step.note == "4 rows"
    artifact = Store(tmp_path / "store").ensure(step)
    assert artifact.facts["dropped"] == 1
    report = json.loads((artifact.path / "report.json").read_text())
    assert report["problems"]["missing image"]["rows"] == [3]
    table = pq.read_table(artifact.path / "examples.parquet").to_pydict()
    assert table["row"] == [0, 1, 2, 3]
    assert table["source"] == ["pics", "pics", "text", "images"]
    assert table["images"] == [1, 1, 0, 1]
    assert table["dropped"] == [None, None, None, "missing image"]
    dataset = data.open(artifact.path)
    assert len(dataset) == 4
    assert set(dataset.dropped) == {3}


def test_the_key_follows_the_content_not_the_place(tmp_path: Path) -> None:
    here, there = (source(tmp_path / name).step().key for name in ("here", "there"))
    assert here == there
    assert source(tmp_path / "here", name="other", clusters=7).step().key == here


@pytest.mark.parametrize(
    "change",
    [
        lambda root: Image.new("RGB", (8, 6), "blue").save(root / "pics" / "b.png"),
        lambda root: (root / "pics" / "b.png").unlink(),
        lambda root: Image.new("RGB", (8, 6), "red").save(root / "gone.png"),
        lambda root: write(root, [*ROWS, text_row("u")], ()),
    ],
    ids=["pixels", "removed", "appeared", "annotations"],
)
def test_every_change_of_content_changes_the_key(tmp_path: Path, change: Any) -> None:
    data = source(tmp_path)
    before = data.step().key
    change(tmp_path)
    assert data.step().key != before
    again = data.step().key
    (tmp_path / "cache").rename(tmp_path / "no-cache")
    assert data.step().key == again, "remembered and fresh hashes agree"


def test_policies_and_sources_are_in_the_key(tmp_path: Path) -> None:
    keys = {
        source(tmp_path, **options).step().key
        for options in ({}, {"on_missing_image": "blank"}, {"source_field": "task"})
    }
    assert len(keys) == 3


def test_the_second_plan_reads_no_file_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = source(tmp_path)
    key = data.step().key
    seen = hashed(monkeypatch)
    assert data.step().key == key
    assert seen == []
    touched(tmp_path / "pics" / "b.png", 1_000_000_000)
    assert data.step().key == key
    assert seen == ["b.png"]


def test_a_cache_that_cannot_be_used_costs_only_time(tmp_path: Path) -> None:
    data = source(tmp_path)
    key = data.step().key
    (file,) = (tmp_path / "cache").rglob("*.json")
    for content in ("{", "[]", '{"stamp": null}'):
        file.write_text(content)
        assert data.step().key == key
    file.unlink()
    file.parent.rmdir()
    file.parent.write_text("a file where the folder should be")
    assert data.step().key == key


def test_corrupt_images_are_found_by_decoding(tmp_path: Path) -> None:
    data = source(tmp_path)
    (tmp_path / "pics" / "b.png").write_bytes(b"<html>404</html>")
    store = Store(tmp_path / "store")
    with pytest.raises(UserError, match=r"1 x corrupt image: rows 1 .*HTML"):
        store.ensure(data.step())
    assert not list((tmp_path / "store").rglob("*.json")), "nothing is written"
    for policy in ("drop", "blank"):
        lenient = LlavaJson(data.annotations, data.images, "x", 1000, None, "error", "drop", policy)
        artifact = store.ensure(lenient.step())
        dataset = lenient.open(artifact.path)
        assert set(dataset.dropped) == ({1, 3} if policy == "drop" else {3})
        assert dataset.blank_images == (frozenset() if policy == "drop" else {1})


def test_bad_rows_are_refused_before_images_are_decoded(tmp_path: Path) -> None:
    data = source(tmp_path, [*ROWS, {"id": "bad"}])
    with pytest.raises(UserError, match="no conversation: rows 4"):
        Store(tmp_path / "store").ensure(data.step())
    assert not list((tmp_path / "store").rglob("*.json"))


def test_malformed_annotations_fail_the_plan(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="malformed JSON at byte"):
        source(tmp_path, '[{"id": "a"').step()


def test_files_changed_since_are_not_opened(tmp_path: Path) -> None:
    data = source(tmp_path)
    artifact = Store(tmp_path / "store").ensure(data.step())
    Image.new("RGB", (8, 6), "blue").save(tmp_path / "pics" / "b.png")
    with pytest.raises(UserError, match=r"data\.images=.* the content changed since"):
        data.open(artifact.path)
    write(tmp_path, [row("z")], ())
    with pytest.raises(UserError, match=r"data\.annotations=.* the content changed since"):
        data.open(artifact.path)


def test_source_field(tmp_path: Path) -> None:
    data = source(tmp_path, [row("a", task_name="count"), text_row("b")], source_field="task_name")
    artifact = Store(tmp_path / "store").ensure(data.step())
    assert [e.source for e in data.open(artifact.path).examples] == ["count", "unknown"]


def test_paths_are_checked_when_they_are_needed(tmp_path: Path) -> None:
    path = str(write(tmp_path, ROWS))
    nowhere = LlavaJson(annotations=f"{path}x", images=f"{tmp_path}/x")
    unmet = [r for r in nowhere.requirements() if not r.met]
    assert [r.name for r in unmet] == ["annotations", "images"]
    assert all(r.fatal and "no such" in r.found for r in unmet)
    with pytest.raises(UserError, match=r"data\.annotations=.*no such file"):
        nowhere.step()
    with pytest.raises(UserError, match=r"data\.images=.*no such folder"):
        LlavaJson(annotations=path, images=f"{tmp_path}/x").step()
    assert all(r.met for r in LlavaJson(annotations=path, images=str(tmp_path)).requirements())


@pytest.mark.parametrize(
    ("option", "value"),
    [("on_corrupt_image", "ignore"), ("lost_at_most", 1.5), ("expect", "newest")],
)
def test_wrong_options_are_refused_at_once(option: str, value: object) -> None:
    with pytest.raises(UserError, match=f"{option}="):
        LlavaJson(annotations="a.json", images="b", **{option: value})


def test_a_policy_may_not_drop_more_than_the_stated_share(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(UserError, match=r"1 of 4 rows would be dropped .*0\.2 allows"):
        store.ensure(source(tmp_path, lost_at_most=0.2).step())
    assert store.ensure(source(tmp_path, lost_at_most=0.25).step()).facts["dropped"] == 1


def test_a_cache_of_digests_from_before_marks_hashes_no_image_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = LlavaJson(str(write(tmp_path, [row()])), str(tmp_path))
    before = data.content()
    (file,) = (tmp_path / "cache").rglob("digests/*.json")
    kept = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in kept.items() if k not in ("marks", "tags")}))
    read = hashed(monkeypatch)
    assert data.content() == before
    assert read == ["train.json"]


def test_pictures_of_other_pixels_than_before_give_another_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transparency was laid on white and 16 bits were scaled; nothing else was drawn otherwise."""
    name = "pics/b.png"
    data = source(tmp_path)
    path = tmp_path / name
    clear: dict[str, Any] = {"P": 1, "RGB": (1, 2, 3)}
    for mode in ("RGB", "L", "P", "1"):
        Image.new(mode, (4, 4)).save(path)
        assert "pictures" not in data.step().config, mode
        if mode in clear:
            Image.new(mode, (4, 4)).save(path, transparency=clear[mode])
            assert data.step().config["pictures"] == 2, mode
    for mode in ("RGBA", "LA", "I;16"):
        Image.new(mode, (4, 4)).save(path)
        assert data.step().config["pictures"] == 2, mode
    Image.new("CMYK", (4, 4)).save(path, "JPEG")
    plain = data.step()
    assert "pictures" not in plain.config
    path.write_bytes(b"no picture")
    assert "pictures" not in data.step().config

    (file,) = (tmp_path / "cache").rglob("digests/*.json")
    Image.new("RGBA", (4, 4)).save(path)
    key, kept = data.step().key, json.loads(file.read_text())
    states = digest._states(file, kept)
    assert states is not None
    entries = zip(states.size.tolist(), states.mtime.tolist(), states.sha256, strict=True)
    old = [[size, time, sha.tobytes().hex()] if size >= 0 else None for size, time, sha in entries]
    names = (found.decode() for found in states.names.to_pylist())
    kept["images"] = dict(zip(names, old, strict=True))  # as it was in two versions before
    file.write_text(json.dumps(kept))
    seen = hashed(monkeypatch)
    assert data.step().key == key and seen == []
    assert data.step().key == key
