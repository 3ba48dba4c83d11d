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
from coincide.data.unpack import Damaged, unpack
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
    with pytest.raises(Damaged):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("<html>404</html>")
    with pytest.raises(Damaged, match="neither a zip nor a tar"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_a_flipped_byte_keeps_what_is_sound(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", FILES)
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    with pytest.raises(Damaged, match="is damaged"):
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
