"""Recognise the format of an annotation file by its content, and read it as text or table.

The first bytes decide, never the name: JSON in UTF-8, UTF-16 or UTF-32, with or without a
byte-order mark, plain or compressed (gzip, bzip2, xz), and Parquet. Other known formats are named
in the error.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

from coincide.schema import UserError

READ = "JSON list, JSON lines (each also as UTF-16 or compressed by gzip, bzip2, xz) and Parquet"
Unpack = Callable[[Path, Literal["rb"]], Any]
COMPRESSED: Mapping[bytes, tuple[str, Unpack]] = {
    b"\x1f\x8b": ("gzip", gzip.open),
    b"BZh": ("bzip2", bz2.open),
    b"\xfd7zXZ\0": ("xz", lzma.open),
}
PARQUET = b"PAR1"
_STEP = 2**20
"""Bytes that are decoded at a time."""
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte-order marks; UTF-32's come first, since one of them begins with UTF-16's."""
_TAR = 257
FOREIGN: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", "the pointer of a Git LFS file, not its content: `git lfs "
     "pull` fetches it"),
    (0, b"ARROW1", "an Arrow file; write it as Parquet (datasets.Dataset.to_parquet)"),
    (0, b"\xff\xff\xff\xff", "an Arrow stream; write it as Parquet (datasets.Dataset.to_parquet)"),
    (0, b"\x28\xb5\x2f\xfd", "compressed by zstd; unpack it: zstd -d"),
    (0, b"\x04\x22\x4d\x18", "compressed by lz4; unpack it: lz4 -d"),
    (0, b"PK\x03\x04", "a zip archive (.zip, .npz, .xlsx or .pt); unpack it"),
    (0, b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (_TAR, b"ustar", "a tar archive (WebDataset?); unpack it and write its rows as JSON lines"),
    (0, b"\x93NUMPY", "a numpy array; rows of a dataset are JSON or Parquet"),
    (0, b"\x89HDF", "an HDF5 file; write its rows as JSON lines or Parquet"),
    (0, b"SQLite format 3", "an SQLite database; write its rows as JSON lines or Parquet"),
    (0, b"Obj\x01", "an Avro file; write its rows as Parquet"),
    (0, b"ORC", "an ORC file; write its rows as Parquet"),
    (0, b"%PDF", "a PDF"),
    (0, b"\x80\x03", "a pickle, which is not loaded: it may run code; write JSON or Parquet"),
    (0, b"\x80\x04", "a pickle, which is not loaded: it may run code; write JSON or Parquet"),
    (0, b"\x80\x05", "a pickle, which is not loaded: it may run code; write JSON or Parquet"),
)  # fmt: skip
_PAGE = (b"<!doctype", b"<html", b"<head", b"<?xml")


def is_parquet(path: Path) -> bool:
    """Whether ``path`` is a Parquet file. Raises :class:`UserError` if there is no file."""
    return _head(path).startswith(PARQUET)


def foreign_format(path: Path, head: bytes) -> UserError | None:
    """The error for a file that begins with ``head``, if that is a known format that is not
    read.
    """
    what = known_format(head)
    return UserError(f"{path} is {what}. Read are {READ}.") if what else None


def known_format(head: bytes) -> str:
    """What a file that begins with ``head`` is, if that is a known format that is no text or table;
    else empty.
    """
    for at, magic, what in FOREIGN:
        if head[at:].startswith(magic):
            return what
    page = head.lstrip().lower().startswith(_PAGE)
    return "an HTML or XML page, probably a failed download" if page else ""


def decode_text(data: bytes, path: Path) -> str:
    """``data`` as text, in UTF-8, UTF-16 or UTF-32. Raises :class:`UserError` if it is in none."""
    coding = next((name for mark, name in MARKS if data.startswith(mark)), _without_mark(data))
    try:
        return data.decode(coding or "utf-8")
    except UnicodeDecodeError as error:
        what = (coding or "utf-8").removesuffix("-sig").upper()
        raise UserError(f"{path}: not {what} at byte {error.start:,}.") from None


def unpacked(path: Path) -> bytes:
    """The bytes of ``path``, uncompressed. Raises :class:`UserError` for a truncated file."""
    head = _head(path)
    for magic, (name, unpack) in COMPRESSED.items():
        if head.startswith(magic):
            with _whole(path, name), unpack(path, "rb") as stream:
                return stream.read()
    return path.read_bytes()


@contextmanager
def open_utf8(path: Path) -> Iterator[tuple[io.BufferedReader, str]]:
    """``path`` as UTF-8 bytes without byte-order mark, and in words what was decoded.

    Raises :class:`UserError` for known formats that are not read, and for a truncated compressed
    file.
    """
    head = _head(path)
    for magic, (name, unpack) in COMPRESSED.items():
        if head.startswith(magic):
            with _whole(path, name), unpack(path, "rb") as stream:
                yield _utf8(path, stream, f" (unpacked from {name})")
            return
    with path.open("rb") as stream:
        yield _utf8(path, stream, "")


def _utf8(path: Path, stream: Any, undone: str) -> tuple[Any, str]:
    head = stream.read(512)
    stream.seek(0)
    unread = foreign_format(path, head)
    if undone and head.startswith((PARQUET, *COMPRESSED)):
        what = "Parquet" if head.startswith(PARQUET) else "compressed once more"
        unread = UserError(f"{path}{undone} is {what} inside; unpack it. Read are {READ}.")
    for mark, coding in MARKS:
        if head.startswith(mark):
            if coding == "utf-8-sig":
                stream.seek(len(mark))
                return stream, undone
            return _transcoded(path, stream, coding), f" (as UTF-8, from {coding.upper()}){undone}"
    if unread:
        raise unread
    coding = _without_mark(head)
    if coding:
        return _transcoded(path, stream, coding), f" (as UTF-8, from {coding.upper()}){undone}"
    return stream, undone


def _without_mark(head: bytes) -> str:
    """UTF-16 or UTF-32, by the zero bytes of the first (ASCII) character; empty if neither."""
    zeros = "".join("0" if byte else "z" for byte in head[:4])
    places = {"0z0z": "utf-16-le", "z0z0": "utf-16-be", "0zzz": "utf-32-le", "zzz0": "utf-32-be"}
    return places.get(zeros, "")


def _transcoded(path: Path, stream: IO[bytes], coding: str) -> io.BufferedReader:
    return io.BufferedReader(_Recoded(path, stream, coding), _STEP)


class _Recoded(io.RawIOBase):
    """A stream in ``coding`` as UTF-8. Reading raises UserError where it is not in ``coding``."""

    def __init__(self, path: Path, stream: IO[bytes], coding: str) -> None:
        self._path, self._stream, self._coding = path, stream, coding
        self._decoder = codecs.getincrementaldecoder(coding)()
        self._read = 0
        self._left = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left and not self._ended:
            data = self._stream.read(_STEP)
            self._read += len(data)
            self._ended = not data
            self._left = self._decoded(data).encode()
        given = self._left[: len(buffer)]
        buffer[: len(given)] = given
        self._left = self._left[len(given) :]
        return len(given)

    def _decoded(self, data: bytes) -> str:
        try:
            return self._decoder.decode(data, not data)
        except UnicodeDecodeError as error:
            byte = self._read - len(error.object) + error.start
            raise UserError(
                f"{self._path}: begins as {self._coding.upper()} but is none at byte {byte:,}. A "
                "file that was cut short looks like this."
            ) from None


@contextmanager
def _whole(path: Path, name: str) -> Iterator[None]:
    """In this context, errors of a truncated or damaged compressed file become UserErrors."""
    try:
        yield
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        raise UserError(
            f"{path} is compressed by {name} and cannot be unpacked whole: {error}. A download "
            "that broke off looks like this: fetch it again."
        ) from None


def _head(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(f"annotations {path}: no such file.")
    with path.open("rb") as handle:
        return handle.read(512)


def size_of(stream: io.BufferedReader) -> int | None:
    """Bytes of a stream that :func:`open_utf8` gave; None where only decoding it would tell."""
    plain = isinstance(getattr(stream, "raw", None), io.FileIO)
    return os.fstat(stream.fileno()).st_size if plain else None


def table_rows(path: Path, progress: Any) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file as dicts of plain values; null columns are left out.

    ``progress``: the bar that is told how many there are.
    Raises UserError for a file that cannot be read as Parquet.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            progress.total = file.metadata.num_rows
            for batch in file.iter_batches(batch_size=64):
                for row in batch.to_pylist():
                    yield {key: value for key, value in row.items() if value is not None}
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        first = str(error).split("\n", 1)[0]
        raise UserError(
            f"{path} is Parquet by its first bytes and cannot be read: {first}. A download that "
            "broke off looks like this: fetch it again."
        ) from None
