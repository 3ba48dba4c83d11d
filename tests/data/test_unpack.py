"""Archives that attack, and archives that broke."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from coincide.data import unpack as module
from coincide.data.unpack import DamagedArchive, unpack
from coincide.schema import UserError

FILES = {f"images/{i}.jpg": Random(i).randbytes(100) * 20 for i in range(20)}
Evil = Callable[[Path], None]


def make_zip(path: Path, files: dict[str, bytes], *more: tuple[zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.mkdir("images")
        for name, content in files.items():
            packed.writestr(name, content)
        for info, content in more:
            packed.writestr(info, content)
    return path


def make_tar(path: Path, files: dict[str, bytes], *more: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as packed:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
        for info in more:
            packed.addfile(info)
    return path


def tree(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def packed_as(kind: str, folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / f"a.{kind}"
    return make_zip(path, files) if kind == "zip" else make_tar(path, files)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_plain_archives(tmp_path: Path, kind: str) -> None:
    assert unpack(packed_as(kind, tmp_path, FILES), tmp_path / "out") == 20
    assert tree(tmp_path / "out") == FILES


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize(
    "name", ["../evil.jpg", "/tmp/evil.jpg", "images/../../evil.jpg", "..\\evil.jpg", "C:\\evil"]
)
def test_names_that_lead_out(tmp_path: Path, kind: str, name: str) -> None:
    archive = packed_as(kind, tmp_path, {**FILES, name: b"evil"})
    with pytest.raises(UserError, match="1 of its members are not plain files") as error:
        unpack(archive, tmp_path / "out")
    assert ascii(name) in str(error.value)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "evil.jpg").exists()


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_tar_links_and_devices(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("images/link")
    info.type, info.linkname = kind, "/etc"
    with pytest.raises(UserError, match="'images/link': a link or a device"):
        unpack(make_tar(tmp_path / "a.tar", FILES, info), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_zip_links(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("images/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(UserError, match="'images/link': a link or a device"):
        unpack(make_zip(tmp_path / "a.zip", FILES, (info, b"/etc")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_bombs(tmp_path: Path, kind: str) -> None:
    archive = packed_as(kind, tmp_path, {f"{i}.jpg": bytes(10_000_000) for i in range(5)})
    assert archive.stat().st_size < 100_000
    with pytest.raises(UserError, match="an archive bomb"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("images/./3.jpg")
    with pytest.raises(UserError, match="twice in the archive"):
        unpack(make_zip(tmp_path / "a.zip", FILES, (info, b"other")), tmp_path / "out")


def folder(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    return info


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["a", "a/b.jpg"], "'a': a file, and 'a' a folder"),
        (["x/a/b/c.jpg", "x/a/b"], "'x/a/b': a file, and 'x/a/b' a folder"),
        (["A", "a/b.jpg"], "'A': a file, and 'a' a folder"),
        (["x/Photo.JPG", "x/photo.jpg"], "'x/Photo.JPG' but for case"),
        (["X/1.jpg", "x/2.jpg"], "'X' but for case"),
        (["stra\u00dfe.jpg", "STRASSE.jpg"], "but for case"),
        (["caf\u00e9.jpg", "cafe\u0301.jpg"], r"'caf\\xe9.jpg' but for case or Unicode normal"),
        (["x/.a.jpg.part", "x/a.jpg"], "our own temporary files"),
        ([".tmp-0123abcd-a.jpg"], "our own temporary files"),
        (["a\x1b[31mb.jpg"], r"'a\\x1b\[31mb.jpg': control characters"),
        (["a\nerror: b.jpg"], r"'a\\nerror: b.jpg': control characters"),
        (["gpj.\u202eevil.jpg"], r"'gpj.\\u202eevil.jpg': control characters"),
        (["a\x9b2Jb.jpg"], "control characters"),
        (["x" * 250], "more than 240 bytes"),
        (["/".join(["x" * 200] * 25)], "a path of more than 4,000 bytes"),
        ([".a.jpg.part/b", "a.jpg"], "our own temporary files"),
    ],
)
def test_names_that_some_disk_or_terminal_confuses(
    tmp_path: Path, kind: str, names: list[str], says: str
) -> None:
    """Each refused whole: not one of the sound files beside it is written."""
    archive = packed_as(kind, tmp_path, {**FILES, **dict.fromkeys(names, b"x")})
    with pytest.raises(UserError, match=says) as error:
        unpack(archive, tmp_path / "out")
    assert str(error.value).isascii() and "\x1b" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_file_and_an_empty_folder_of_one_name(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tar", {**FILES, "a": b"x"}, folder("a"), folder("./"))
    with pytest.raises(UserError, match="'a': a file, and 'a' a folder"):
        unpack(archive, tmp_path / "out")
    assert unpack(make_tar(tmp_path / "b.tar", FILES, folder("./"), folder("b")), tmp_path) == 20


@pytest.mark.parametrize("place", ["images", "images/3.jpg", "images/.3.jpg.part"])
def test_a_link_in_the_target_is_not_followed(tmp_path: Path, place: str) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (out / place).parent.mkdir(parents=True)
    (out / place).symlink_to(elsewhere if place == "images" else elsewhere / "x")
    with pytest.raises(UserError, match=r"is a link; unpacking would write where it leads"):
        unpack(make_zip(tmp_path / "a.zip", FILES), out)
    assert not list(elsewhere.iterdir()) and not tree(out)


def test_the_target_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    assert unpack(make_zip(tmp_path / "a.zip", FILES), tmp_path / "out") == 20
    assert tree(tmp_path / "disk") == FILES


@pytest.mark.parametrize(("there", "says"), [("images", "no folder"), ("images/3.jpg/x", "a fold")])
def test_what_stands_in_the_way_is_named(tmp_path: Path, there: str, says: str) -> None:
    (tmp_path / "out" / there).parent.mkdir(parents=True)
    (tmp_path / "out" / there).write_bytes(b"mine")
    with pytest.raises(UserError, match=rf"is there and is {says}"):
        unpack(make_zip(tmp_path / "a.zip", FILES), tmp_path / "out")
    assert tree(tmp_path / "out") == {there: b"mine"}


def test_encrypted_members(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"a.jpg": b"x"})
    content = bytearray(archive.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    with pytest.raises(UserError, match=r"'a\.jpg': encrypted"):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("at", [20_000, 25_600], ids=["in a member", "between members"])
def test_cut_short(tmp_path: Path, kind: str, at: int) -> None:
    archive = packed_as(kind, tmp_path, FILES)
    at = min(at, archive.stat().st_size // 2)
    archive.write_bytes(archive.read_bytes()[:at])
    with pytest.raises(DamagedArchive):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("<html>404</html>")
    with pytest.raises(DamagedArchive, match="neither a zip nor a tar"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_a_flipped_byte_keeps_what_is_sound(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", FILES)
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    with pytest.raises(DamagedArchive, match="is damaged"):
        unpack(archive, tmp_path / "out")
    there = {n: c for n, c in tree(tmp_path / "out").items() if not n.endswith(".part")}
    assert 0 < len(there) < 20
    assert set(there.items()) <= set(FILES.items())


def test_a_second_run_writes_only_what_is_missing(tmp_path: Path) -> None:
    archive, out = make_zip(tmp_path / "a.zip", FILES), tmp_path / "out"
    unpack(archive, out)
    for path in out.rglob("*.jpg"):
        os.utime(path, ns=(1, 1))
    (out / "images" / "3.jpg").unlink()
    (out / "images" / "4.jpg").write_bytes(b"half")
    unpack(archive, out)
    assert tree(out) == FILES
    fresh = {path.name for path in out.rglob("*.jpg") if path.stat().st_mtime_ns != 1}
    assert fresh == {"3.jpg", "4.jpg"}


def test_a_disk_too_small_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = make_zip(tmp_path / "a.zip", FILES)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match="40,000 bytes are needed to unpack and 1,000 are free"):
        unpack(archive, tmp_path / "out")
    assert not tree(tmp_path / "out")
