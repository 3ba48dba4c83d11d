"""Pictures of every kind that datasets hold: converted as documented, or refused by name."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coincide.data.check import PATHS, check_images, corrupt_images
from coincide.data.images import CorruptImage, MissingImage, UnsafePath, decode, load_image
from coincide.schema import UserError

RED, WHITE = (255, 0, 0), (255, 255, 255)


def saved(root: Path, picture: Image.Image, name: str = "a.png", **options: Any) -> Image.Image:
    """Save ``picture`` and load it back through ours."""
    picture.save(root / name, **options)
    loaded = load_image(root, name)
    assert loaded.mode == "RGB"
    return loaded


def pixel(picture: Image.Image, x: int = 0, y: int = 0) -> tuple[int, int, int]:
    value = picture.getpixel((x, y))
    assert isinstance(value, tuple)
    return value  # type: ignore[return-value]


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "YCbCr"])
def test_plain_modes(tmp_path: Path, mode: str) -> None:
    name = "a.jpg" if mode == "YCbCr" else "a.png"
    loaded = saved(tmp_path, Image.new("RGB", (9, 5), "white").convert(mode), name)
    assert loaded.size == (9, 5)
    assert pixel(loaded) == WHITE


def test_cmyk(tmp_path: Path) -> None:
    loaded = saved(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "a.jpg", quality=100)
    assert np.allclose(pixel(loaded), RED, atol=3)


@pytest.mark.parametrize("alpha", [0, 128, 255])
def test_transparency_is_dropped_as_llava_does(tmp_path: Path, alpha: int) -> None:
    assert pixel(saved(tmp_path, Image.new("RGBA", (2, 2), (*RED, alpha)))) == RED
    assert pixel(saved(tmp_path, Image.new("LA", (2, 2), (9, alpha)))) == (9, 9, 9)


def test_transparent_palette_entry_and_colour(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    for transparent in (0, b"\0\x80"):
        loaded = saved(tmp_path, palette, transparency=transparent)
        assert (pixel(loaded), pixel(loaded, 1)) == (RED, (0, 0, 255))
    loaded = saved(tmp_path, Image.new("RGB", (2, 2), RED), transparency=RED)
    assert pixel(loaded) == RED and "transparency" not in loaded.info


@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    ramp = np.array([[0, 128 * 256, 255 * 256 + 7]], dtype=np.uint16)
    loaded = saved(tmp_path, Image.fromarray(ramp), name)
    assert [pixel(loaded, x)[0] for x in range(3)] == [0, 128, 255]


def test_thirty_two_bit_grey(tmp_path: Path) -> None:
    wide = saved(tmp_path, Image.fromarray(np.array([[0, 32768]], np.int32)), "a.tiff")
    assert pixel(wide, 1) == (128, 128, 128)
    narrow = saved(tmp_path, Image.fromarray(np.array([[0, 200]], np.int32)), "a.tiff")
    assert pixel(narrow, 1) == (200, 200, 200)
    real = saved(tmp_path, Image.fromarray(np.array([[-5.0, 99.5, 1e9]], np.float32)), "a.tiff")
    assert [pixel(real, x)[0] for x in range(3)] == [0, 99, 255]


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    picture = Image.new("RGB", (30, 20), "white")
    picture.paste(RED, (0, 0, 10, 20))  # a red band on the left, as the sensor saw it
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees clockwise to view"
    loaded = saved(tmp_path, picture, "a.jpg", exif=exif, quality=100, subsampling=0)
    assert loaded.size == (20, 30)
    assert np.allclose(pixel(loaded, 10, 1), RED, atol=8), "the band is on top now"


@pytest.mark.parametrize("name", ["a.gif", "a.jpg", "a.webp"])
def test_first_frame_of_an_animation_whatever_its_extension(tmp_path: Path, name: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    kind = "WEBP" if name.endswith("webp") else "GIF"
    extra = {"lossless": True} if kind == "WEBP" else {}
    loaded = saved(
        tmp_path, frames[0], name, format=kind, save_all=True, append_images=frames[1:], **extra
    )
    assert pixel(loaded) == RED


BROKEN = {
    "zero bytes": b"",
    "HTML or XML page": b"\n<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "no image format": b"just text",
}


@pytest.mark.parametrize(("what", "content"), BROKEN.items(), ids=list(BROKEN))
def test_what_is_no_image_is_told(tmp_path: Path, what: str, content: bytes) -> None:
    (tmp_path / "ocr.jpg").write_bytes(content)
    with pytest.raises(CorruptImage, match=what) as error:
        load_image(tmp_path, "ocr.jpg")
    assert "'ocr.jpg'" in str(error.value)
    assert isinstance(error.value, UserError)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_truncated_files_are_corrupt_images(
    tmp_path: Path, kind: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where some library, as lmms-eval does, told Pillow to accept them."""
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    whole = io.BytesIO()
    Image.fromarray(noise).save(whole, kind)
    content = whole.getvalue()
    (tmp_path / "a.img").write_bytes(content[: max(1, int(len(content) * share))])
    with pytest.raises(CorruptImage, match=r"a\.img"):
        load_image(tmp_path, "a.img")


@pytest.mark.filterwarnings("ignore")
def test_flipped_bytes_never_escape_as_another_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    noise = Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "ICO", "PPM", "TGA"):
        whole = io.BytesIO()
        noise.save(whole, kind)
        for _ in range(40):
            content = bytearray(whole.getvalue())
            for at in rng.integers(0, min(len(content), 400), 3):
                content[at] = rng.integers(0, 256)
            (tmp_path / "a").write_bytes(content)
            with suppress(CorruptImage):
                assert load_image(tmp_path, "a").mode == "RGB"


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"0" * 99))
        + chunk(b"IEND", b"")
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(20_000, 6_000), (60_000, 60_000)])
def test_a_decompression_bomb_is_refused_with_its_dimensions(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    (tmp_path / "bomb.png").write_bytes(png_header(*size))
    with pytest.raises(CorruptImage, match="refused") as error:
        load_image(tmp_path, "bomb.png")
    assert f"{size[0]} x {size[1]}" in str(error.value)


def test_the_limit_itself_is_allowed(tmp_path: Path) -> None:
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    assert load_image(tmp_path, "a.png", max_pixels=100).size == (10, 10)
    with pytest.raises(CorruptImage, match="10 x 10"):
        load_image(tmp_path, "a.png", max_pixels=99)


@pytest.mark.parametrize(
    "path", ["/etc/hostname", "../a.png", "x/../../a.png", "", "a\0.png", "~/a"]
)
def test_unsafe_paths(tmp_path: Path, path: str) -> None:
    (tmp_path / "root").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    with pytest.raises(UnsafePath):
        load_image(tmp_path / "root", path)


def test_a_link_out_of_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    (root / "a.png").symlink_to(tmp_path / "a.png")
    with pytest.raises(UnsafePath, match="symbolic link"):
        load_image(root, "a.png")
    (tmp_path / "root-twin").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "root-twin" / "b.png")
    (root / "twin").symlink_to(tmp_path / "root-twin")
    with pytest.raises(UnsafePath):
        load_image(root, "twin/b.png")


def test_missing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("gone.png", "folder"):
        with pytest.raises(MissingImage, match=name):
            load_image(tmp_path, name)


def many(root: Path, count: int) -> list[str]:
    """``count`` names, of which the last is missing and 3 and 7 are corrupt."""
    for i in range(count - 1):
        Image.new("RGB", (4, 4)).save(root / f"{i}.png")
    (root / "3.png").write_bytes(b"")
    (root / "7.png").write_bytes((root / "6.png").read_bytes()[:40])
    Image.new("L", (4, 4)).save(root / "5.png")
    return [f"{i}.png" for i in reversed(range(count))]


@pytest.mark.parametrize("processes", [None, 1, 3])
def test_findings_of_many(tmp_path: Path, processes: int | None) -> None:
    found = check_images(tmp_path, many(tmp_path, 150), processes=processes)
    assert list(found) == sorted(found)
    assert len(found) == 150
    assert found["3.png"].status == found["7.png"].status == "corrupt"
    assert "zero bytes" in found["3.png"].detail
    assert found["149.png"].status == "missing"
    assert found["5.png"] == ("converted", "grey")
    assert sum(f.status == "ok" for f in found.values()) == 146
    assert list(corrupt_images(tmp_path, list(found), processes=processes)) == ["3.png", "7.png"]


def test_a_picture_that_kills_its_decoder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker dies at one name; its neighbours are examined all the same."""
    deadly = tmp_path / "sitecustomize.py"
    deadly.write_text(
        "import os, json\n"
        "real = json.loads\n"
        "def loads(text):\n"
        "    names = real(text)\n"
        "    if '100.png' in names: os.abort()\n"
        "    return names\n"
        "json.loads = loads\n"
    )
    names = many(tmp_path, 140)
    monkeypatch.setattr("coincide.data.check.PATHS", (*PATHS, str(tmp_path)))
    found = check_images(tmp_path, names, processes=2)
    assert found["100.png"].status == "corrupt"
    assert "ended the process" in found["100.png"].detail
    assert sum(f.status == "ok" for f in found.values()) == 135


def test_names_that_leave_the_root_are_refused_before_any_is_decoded(tmp_path: Path) -> None:
    with pytest.raises(UnsafePath, match="climbs out"):
        check_images(tmp_path, ["a.png", "../b.png"])


@pytest.mark.parametrize(
    ("picture", "options", "expected"),
    [
        (Image.new("RGB", (4, 4)), {}, ()),
        (Image.new("RGBA", (4, 4)), {}, ("transparency",)),
        (Image.new("P", (4, 4)), {}, ("palette",)),
        (Image.new("I;16", (4, 4)), {}, ("16-bit grey",)),
        (Image.new("RGB", (4, 4)), {"format": "JPEG"}, ("JPEG named .png",)),
        (Image.new("1", (4, 4)), {}, ("bilevel",)),
    ],
)
def test_what_was_converted_is_said(
    tmp_path: Path, picture: Image.Image, options: dict[str, str], expected: tuple[str, ...]
) -> None:
    picture.save(tmp_path / "a.png", **options)
    assert decode(tmp_path, "a.png")[1] == expected
