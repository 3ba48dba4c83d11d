"""Fetching the miniature of LLaVA-665K from a local server, whole, broken and twice at once."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from coincide.data import prepare as module
from coincide.data.download import Download, download
from coincide.data.llava import Llava
from coincide.data.prepare import LOST, prepare
from coincide.data.presence import WORK
from coincide.data.unpack import DamagedArchive
from coincide.schema import UserError
from coincide.store import Store
from tests.data.bad_server import BadServer, bad_server, break_at, status
from tests.mini import llava665k as mini

FOLDERS = {
    "coco": ("coco", "coco/train2017"),
    "gqa": ("gqa", "gqa/images"),
    "ocr_vqa": ("ocr_vqa", "ocr_vqa/images"),
    "textvqa": ("textvqa", "textvqa/train_images"),
    "vg_1": ("vg", "vg/VG_100K"),
    "vg_2": ("vg", "vg/VG_100K_2"),
}


def packed(root: Path, to: str, holds: str) -> bytes:
    """The folder ``holds`` as its publisher packs it: names below ``to``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted((root / holds).iterdir()):
            archive.write(path, path.relative_to(root / to))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published")
    mini.make(root)
    return root


@pytest.fixture
def server(published: Path) -> Iterator[BadServer]:
    files = {f"{n}.zip": packed(published, to, holds) for n, (to, holds) in FOLDERS.items()}
    files["annotations"] = (published / mini.ANNOTATIONS).read_bytes()
    with bad_server(**files) as running:
        yield running


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "download", partial(download, pause=lambda _: None))


def source(server: BadServer, root: Path, **options: Any) -> Llava:
    items = [Download("annotations", server.url("/annotations"), mini.ANNOTATIONS, about=10**5)]
    items += [
        Download(name, server.url(f"/{name}.zip"), to, holds, about=10**5)
        for name, (to, holds) in FOLDERS.items()
    ]
    policy = "drop"
    return Llava(
        annotations=str(root / mini.ANNOTATIONS),
        images=str(root),
        on_bad_row=policy,
        on_missing_image=policy,
        on_corrupt_image=policy,
        expect="any",
        root=str(root),
        downloads=items,
        **options,
    )


def tree(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and WORK not in path.parts
    }


def test_the_tree_as_published_and_what_is_lost(
    server: BadServer, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "llava"
    data = source(server, root)
    prepare(data)
    found = tree(root)
    lost = json.loads(found.pop(LOST))
    assert found == tree(published)
    assert lost == {"ocr_vqa": sorted(mini.MISSING)}
    assert not list((root / WORK).glob("*.zip")), "archives are gone once unpacked"
    printed = capsys.readouterr().out
    assert "0.0 GB to download" in printed
    assert "2 of 154 images are named and not there (ocr_vqa 2)" in printed
    asked = len(server.seen)
    prepare(data)
    assert len(server.seen) == asked, "nothing is fetched twice"
    artifact = Store(tmp_path / "store").ensure(data.step())
    assert artifact.facts["sources"] == dict(sorted(mini.BLOCKS.items()))
    assert artifact.facts["dropped"] == len(mini.MISSING) + len(mini.CORRUPT)


def test_requirements_before_and_after(server: BadServer, tmp_path: Path) -> None:
    root = tmp_path / "deep" / "llava"
    data = source(server, root)
    before = data.requirements()
    assert [r.name for r in before] == [
        "annotations",
        *(f"images {holds}" for _, holds in FOLDERS.values()),
        f"disk space at {root}",
    ]
    wanted, room = before[:-1], before[-1]
    assert not any(r.met for r in wanted)
    assert all(r.fatal and r.fetch and r.bytes == 10**5 for r in wanted)
    assert all("coincide.data.prepare data=llava" in r.remedy for r in wanted)
    assert room.met
    assert not server.seen, "asking only looks"
    assert not root.exists()
    with pytest.raises(UserError, match=r"data\.annotations=.*prepare data=llava"):
        data.step()
    for requirement in wanted:
        assert requirement.fetch is not None
        requirement.fetch()
    after = data.requirements()
    assert all(r.met and not r.bytes for r in after)
    assert len(after) == len(before) - 1


def test_annotations_of_ones_own_beside_the_published_images(
    server: BadServer, published: Path, tmp_path: Path
) -> None:
    data = replace(source(server, tmp_path), annotations=str(published / mini.ANNOTATIONS))
    names = [r.name for r in data.requirements() if r.met]
    assert names == ["annotations", f"disk space at {tmp_path}"]
    lost = replace(data, annotations="gone.json")
    (unmet,) = [r for r in lost.requirements() if r.name == "annotations"]
    assert not unmet.met
    assert unmet.fetch is None


def test_a_folder_that_lacks_some_images_stops_nothing(server: BadServer, tmp_path: Path) -> None:
    data = source(server, tmp_path)
    prepare(data)
    gone = next((tmp_path / "gqa" / "images").iterdir())
    gone.unlink()
    (unmet,) = [r for r in data.requirements() if not r.met and r.name.startswith("images")]
    assert unmet.name == "images gqa/images"
    assert not unmet.fatal
    prepare(data)
    assert gone.is_file()


def test_broken_off_everywhere(server: BadServer, published: Path, tmp_path: Path) -> None:
    server.answers = {
        "/annotations": [break_at(1000), status(503)],
        "/coco.zip": [break_at(5000), break_at(9000)],
    }
    prepare(source(server, tmp_path))
    found = tree(tmp_path)
    del found[LOST]
    assert found == tree(published)


def test_killed_while_unpacking(
    server: BadServer, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = source(server, tmp_path)

    def killed(archive: Path, into: Path) -> int:
        real(archive, into)
        (tmp_path / "coco" / "train2017" / "000000000307.jpg").unlink()
        raise KeyboardInterrupt

    real = module.unpack
    monkeypatch.setattr(module, "unpack", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(data)
    (coco,) = [r for r in data.requirements() if r.name == "images coco/train2017"]
    assert not coco.met
    assert coco.fatal
    assert "unpacking broke off" in coco.found
    monkeypatch.setattr(module, "unpack", real)
    asked = len(server.seen)
    prepare(data)
    assert "/coco.zip" not in [path for path, _ in server.seen[asked:]], "the archive was there"
    assert tree(tmp_path).keys() - {LOST} == tree(published).keys()


def test_a_damaged_archive_is_fetched_again(server: BadServer, tmp_path: Path) -> None:
    whole = server.files["/gqa.zip"]
    damaged = bytearray(whole)
    damaged[whole.index(b"\xff\xd8") + 100] ^= 255

    def once(handler: Any, _: bytes) -> None:
        handler.begin(200, Content_Length=str(len(damaged)))
        handler.wfile.write(damaged)

    server.answers["/gqa.zip"] = [once]
    prepare(source(server, tmp_path))
    assert len(list((tmp_path / "gqa" / "images").glob("*.jpg"))) == mini.BLOCKS["gqa"]
    assert [path for path, _ in server.seen].count("/gqa.zip") == 2


def test_an_archive_damaged_at_its_source(server: BadServer, tmp_path: Path) -> None:
    content = server.files["/gqa.zip"]
    server.files["/gqa.zip"] = content[: len(content) // 2]
    with pytest.raises(DamagedArchive, match="neither a zip nor a tar"):
        prepare(source(server, tmp_path))
    assert [path for path, _ in server.seen].count("/gqa.zip") == 2
    server.files["/gqa.zip"] = content
    prepare(source(server, tmp_path))
    assert len(list((tmp_path / "gqa" / "images").iterdir())) == mini.BLOCKS["gqa"]


def test_an_archive_of_another_layout(server: BadServer, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("pictures/1.jpg", b"x")
    server.files["/gqa.zip"] = buffer.getvalue()
    with pytest.raises(UserError, match=r"there is no folder .*gqa/images now"):
        prepare(source(server, tmp_path))


def test_two_at_once_fetch_everything_once(
    server: BadServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = source(server, tmp_path)
    both = [threading.Thread(target=prepare, args=(data,)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert sorted(path for path, _ in server.seen) == sorted(server.files)
    assert capsys.readouterr().out.count("images are named and not there") == 2


def test_a_disk_too_small_is_refused_before_any_request(
    server: BadServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = source(server, tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 700_000}))
    with pytest.raises(UserError, match=r"0\.0 GB are needed .*Nothing was downloaded"):
        prepare(data)
    assert not server.seen
    (room,) = [r for r in data.requirements() if r.name.startswith("disk space")]
    assert not room.met
    assert room.fatal


@pytest.mark.parametrize(
    ("code", "expected"),
    [(28, r"is full: [\d,]+ bytes free.*resumes"), (30, "cannot be written"), (5, "Input/output")],
)
def test_a_disk_that_fails_in_the_middle(
    server: BadServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    expected: str,
) -> None:
    def failing(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module, "unpack", failing)
    with pytest.raises(OSError if code == 5 else UserError, match=expected):
        prepare(source(server, tmp_path))
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    prepare(source(server, tmp_path))
    assert [path for path, _ in server.seen].count("/coco.zip") == 1


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_without_file_locks_it_goes_on(
    server: BadServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
) -> None:
    def none(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    prepare(source(server, tmp_path))
    assert "has no file locks: prepare it from one process at a time" in capsys.readouterr().out
    assert (tmp_path / mini.ANNOTATIONS).is_file()


def test_a_source_without_downloads(capsys: pytest.CaptureFixture[str]) -> None:
    from coincide.data.demo import Demo

    prepare(Demo())
    assert "data=demo names no downloads" in capsys.readouterr().out
