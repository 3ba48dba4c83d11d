"""Download one file from a public address; the target appears only when it is complete.

An interrupted download is resumed (``Range`` with ``If-Range``) if the server still has the same
file. It is compared with the known size and checksum, then renamed into place. The Hugging Face hub
states both for its large files.

``HF_ENDPOINT`` replaces the hub's address. ``HF_TOKEN`` is only sent to the hub's host, dropped
when the hub redirects elsewhere, and never printed; nor are the signed addresses that it redirects
to.
"""

from __future__ import annotations

import email.utils
import errno
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from coincide.schema import UserError
from coincide.system.files import read_cache, write_json
from coincide.terminal.inert import inert, raw

if TYPE_CHECKING:
    from requests import Response, Session

HUB = "https://huggingface.co"
PATIENCE = 8
"""Failures in a row without a byte of progress after which an address is given up."""
NO_ANSWER = 3
"""The same for an address that has never answered: there may be no network."""
TIMEOUT = (30.0, 60.0)
"""Seconds for connecting, and between two bytes."""
CHUNK = 1 << 20


@dataclass(frozen=True)
class Download:
    """A file of a dataset and its address: an entry of ``downloads`` in ``conf/data``."""

    name: str
    url: str
    to: str
    """Destination below the dataset's root: the file itself, or the folder to unpack into."""
    holds: str = ""
    """For archives: a folder below the root that exists after unpacking."""
    files: int = 0
    """Minimum number of files in ``holds``, if known."""
    bytes: int = 0
    """Exact size, if known; a file of another size is refused."""
    about: int = 0
    """Approximate size for planning, if the exact one is not known."""
    md5: str = ""
    sha256: str = ""
    mirrors: Sequence[str] = ()
    """Other addresses of the same file, tried in turn."""

    @property
    def size(self) -> int:
        """Bytes for planning; 0 if unknown."""
        return self.bytes or self.about


class DownloadRefused(UserError):
    """This address will not give the file, however often it is tried."""


class _Broken(Exception):
    """An attempt failed, but a later one may succeed.

    ``wait``: seconds that the server asked for.
    """

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


def download(item: Download, target: Path, *, pause: Callable[[float], None] = time.sleep) -> None:
    """Download ``item`` to ``target``, resuming ``target.part``.

    Does nothing if ``target`` is complete. Raises :class:`UserError` naming every address tried and
    what was wrong with it.
    """
    if target.is_file() and item.bytes in (0, target.stat().st_size):
        return None
    import requests

    target.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    with requests.Session() as session:
        session.headers["User-Agent"] = "coincide"
        for url in (item.url, *item.mirrors):
            try:
                return _Transfer(item, url, target, session).run(pause)
            except DownloadRefused as error:
                reasons.append(f"  {redact_url(url)}: {error}")
    raise UserError(
        f"{item.name} cannot be downloaded:\n" + "\n".join(reasons) + "\nRun the command again "
        f"later (it resumes), or put the file at {target} yourself."
    )


def address(url: str) -> str:
    """``url`` with the hub's host replaced by ``HF_ENDPOINT``."""
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    return endpoint + url.removeprefix(HUB) if endpoint and url.startswith(f"{HUB}/") else url


def _address_hash(url: str) -> str:
    """A hash that identifies an address.

    The address itself may contain secrets and is not stored.
    """
    return hashlib.sha256(url.encode()).hexdigest()


def redact_url(url: str) -> str:
    """``url`` for a message: without user, password and query, which may be secret."""
    parts = urlsplit(address(url))
    host = parts.hostname or ""
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"


def login(url: str) -> dict[str, str]:
    """The header with ``HF_TOKEN`` for addresses of the hub; empty for all others."""
    hub = urlsplit(os.environ.get("HF_ENDPOINT") or HUB)
    here = urlsplit(url)
    token = os.environ.get("HF_TOKEN", "").strip()
    same = (here.scheme, here.netloc) == (hub.scheme, hub.netloc)
    return {"Authorization": f"Bearer {token}"} if token and same else {}


@dataclass
class _Transfer:
    """The download of one file from one address, in as many attempts as needed."""

    item: Download
    url: str
    target: Path
    session: Session
    answered: bool = False
    """The server has answered."""
    restarted: bool = False
    """The checksum was wrong once already."""

    def __post_init__(self) -> None:
        self.part = self.target.with_name(f"{self.target.name}.part")
        self.notes = self.target.with_name(f"{self.target.name}.part.json")
        self.known: dict[str, Any] = self._recall()

    def run(self, pause: Callable[[float], None]) -> None:
        failures = 0
        while True:
            before = self.have
            try:
                self._receive()
                return self._finish()
            except _Broken as error:
                failures = failures + 1 if self.have <= before else 1
                if failures > (PATIENCE if self.answered else NO_ANSWER):
                    raise DownloadRefused(f"{error}; given up after {failures} attempts") from None
                wait = error.wait if error.wait is not None else min(60.0, 2.0 ** (failures - 1))
                print(f"{self.item.name}: {error}; trying again in {wait:.0f} s", flush=True)
                pause(wait)
            except OSError as error:
                raise disk_error(error, self.part.parent) from error

    @property
    def have(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _receive(self) -> None:
        """One request: append the missing bytes to the part file."""
        import requests

        have = self.have
        if have and have == self.known.get("size"):
            return
        resume = have > 0 and bool(self.known.get("validator"))
        ask = {"Range": f"bytes={have}-", "If-Range": self.known["validator"]} if resume else {}
        url = address(self.url)
        headers = {"Accept-Encoding": "identity", **login(url), **ask}
        try:
            answer = self.session.get(url, headers=headers, stream=True, timeout=TIMEOUT)
            self.answered = True
            with closing(answer) as response:
                begin = self._begin(response, have if resume else 0)
                self._append(response, begin)
        except (requests.ConnectionError, requests.Timeout) as error:
            raise _Broken(f"the connection failed ({type(error).__name__})") from None
        except requests.exceptions.ChunkedEncodingError:
            raise _Broken(f"the connection broke off at byte {self.have:,}") from None
        except requests.RequestException as error:
            raise DownloadRefused(f"the request failed ({type(error).__name__})") from None

    def _begin(self, response: Response, have: int) -> int:
        """Position of the response's body in the file; refuses responses that are not the file."""
        status = response.status_code
        if status == 416:
            self._forget()
            raise _Broken("the server has a shorter file than before; starting anew")
        if status in (408, 425, 429) or status >= 500:
            raise _Broken(f"the server answered {status}", _retry_after(response))
        if status in (401, 403):
            raise DownloadRefused(
                f"the server answered {status}. Where the file needs a login, accept its terms "
                "on its page and set HF_TOKEN"
            )
        if status not in (200, 206):
            raise DownloadRefused(f"the server answered {status}")
        if "text/html" in response.headers.get("Content-Type", ""):
            raise DownloadRefused("an HTML page came instead of the file: a login or an error page")
        begin, total = _span(response)
        size = self.item.bytes or self._hub_size(response)
        if size and total is not None and total != size:
            raise DownloadRefused(
                f"the server has {total:,} bytes, expected {size:,}: another file"
            )
        if status == 200:
            self._forget()
            self.known = {
                "url": _address_hash(self.url),
                "validator": _validator(response),
                "size": size or total,
                "sha256": self._hub_digest(response),
            }
            write_json(self.notes, self.known)
        elif begin != have or total not in (None, self.known["size"]) or self._changed(response):
            self._forget()
            raise _Broken("the file changed at its source; starting anew")
        return begin

    def _changed(self, response: Response) -> bool:
        """Whether the rest of the file comes from another version.

        A server that sends no validator with it, or one of another kind, was asked with
        ``If-Range`` and is believed.
        """
        got, known = _validator(response), self.known["validator"]
        comparable = bool(got) and got.startswith('"') == known.startswith('"')
        return comparable and got != known

    def _append(self, response: Response, begin: int) -> None:
        from tqdm import tqdm

        total = self.known["size"]
        with (
            self.part.open("r+b" if begin else "wb") as out,
            tqdm(
                desc=inert(self.item.name), file=raw(sys.stderr), total=total, initial=begin,
                unit="B", unit_scale=True,
                dynamic_ncols=True, mininterval=0.5, disable=None,
            ) as progress,
        ):  # fmt: skip
            out.seek(begin)
            for chunk in response.iter_content(CHUNK):
                out.write(chunk)
                progress.update(len(chunk))
            out.flush()
            os.fsync(out.fileno())
        if total is not None and self.have != total:
            short = self.have
            if short > total:
                self._forget()
            raise _Broken(f"{short:,} bytes came of {total:,}")

    def _finish(self) -> None:
        """Check the checksum and rename into place."""
        kind = "sha256" if self.item.sha256 or self.known.get("sha256") else "md5"
        expected = self.item.sha256 or self.known.get("sha256") or self.item.md5
        if expected:
            with self.part.open("rb") as handle:
                got = hashlib.file_digest(handle, kind).hexdigest()
            if got != expected.lower():
                self._forget()
                why = f"{kind} {got}, expected {expected}"
                if self.restarted:
                    raise DownloadRefused(
                        f"{why}, twice: another file, or a cache on the way damages it"
                    )
                self.restarted = True
                raise _Broken(f"{why}; starting anew")
        os.replace(self.part, self.target)
        self.notes.unlink(missing_ok=True)

    def _recall(self) -> dict[str, Any]:
        """What is known of a partial file; empty if it came from another address."""
        known = read_cache(self.notes)
        return known if known.get("url") == _address_hash(self.url) else {}

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)
        self.known = {}

    def _hub_size(self, response: Response) -> int:
        sizes = [r.headers.get("X-Linked-Size", "") for r in (*response.history, response)]
        return next((int(size) for size in sizes if size.isdecimal()), 0)

    def _hub_digest(self, response: Response) -> str:
        """SHA-256 of a large file, which the hub sends as ``X-Linked-ETag``."""
        tags = [r.headers.get("X-Linked-ETag", "") for r in (*response.history, response)]
        return next((t.strip('"') for t in tags if re.fullmatch('"?[0-9a-f]{64}"?', t)), "")


def _span(response: Response) -> tuple[int, int | None]:
    """First byte of the body and size of the whole file, according to the server."""
    if response.status_code == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if found is None:
            raise DownloadRefused("a partial answer without Content-Range")
        return int(found[1]), None if found[2] == "*" else int(found[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _validator(response: Response) -> str:
    """What distinguishes this version from a later one: a strong ETag, else the date, else
    nothing.
    """
    tag = response.headers.get("ETag", "")
    return response.headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag


def _retry_after(response: Response) -> float | None:
    """Seconds to wait by ``Retry-After`` (a number or a date), at most ten minutes."""
    value = response.headers.get("Retry-After", "")
    if value.isdecimal():
        return min(600.0, float(value))
    try:
        when = email.utils.parsedate_to_datetime(value).timestamp()
    except (TypeError, ValueError):
        return None
    return min(600.0, max(0.0, when - time.time()))


def disk_error(error: OSError, folder: Path) -> BaseException:
    """``error``, as a DiskError if the disk of ``folder`` is full or cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(folder).free
        return UserError(
            f"{folder} is full: {free:,} bytes free. Free some space, or set paths.data to a "
            "larger disk; the work resumes from here."
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return UserError(
            f"{folder} cannot be written ({error.strerror}). Set paths.data to a folder you may "
            "write to, or let its owner fetch the data."
        )
    return error
