"""Downloads from a server that breaks, redirects, truncates and lies."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coincide.data import download as module
from coincide.data.download import PATIENCE, Download, download, redact_url
from coincide.schema import UserError
from tests.data.bad_server import (
    Answer,
    BadServer,
    bad_server,
    break_at,
    claim,
    good,
    nameless_rest,
    other_span,
    page,
    part,
    redirect,
    replaced,
    status,
    whole,
)

BODY = bytes(i * 7 % 251 for i in range(300_000))
NEW = bytes(i * 11 % 241 for i in range(300_000))


@pytest.fixture
def server() -> Iterator[BadServer]:
    with bad_server(file=BODY) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_ENDPOINT", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "CHUNK", 10_000)


def fetch(server: BadServer, folder: Path, *answers: Answer, **known: Any) -> list[float]:
    """Download ``/file`` after ``answers``; return the pauses that were made."""
    server.answers["/file"] = list(answers)
    pauses: list[float] = []
    item = Download("file", server.url("/file"), "file", **known)
    download(item, folder / "file", pause=pauses.append)
    return pauses


def only(folder: Path) -> bytes:
    """The one file in ``folder``: nothing is left beside it."""
    assert [path.name for path in folder.iterdir()] == ["file"]
    return (folder / "file").read_bytes()


def test_a_sound_server_is_asked_once(server: BadServer, tmp_path: Path) -> None:
    sums = {"md5": hashlib.md5(BODY).hexdigest(), "bytes": len(BODY)}
    assert fetch(server, tmp_path, **sums) == []
    assert only(tmp_path) == BODY
    fetch(server, tmp_path, **sums)
    assert len(server.seen) == 1


def test_what_breaks_off_is_resumed_where_it_stopped(server: BadServer, tmp_path: Path) -> None:
    pauses = fetch(server, tmp_path, break_at(90_000), break_at(200_000), break_at(210_000))
    assert only(tmp_path) == BODY
    begins = [int(r[6:-1]) if r else 0 for r in server.asked("Range")]
    assert begins == sorted(begins)
    assert 0 < begins[1] <= 90_000 < begins[2] <= 200_000 < begins[3] <= 210_000
    assert pauses == [1, 1, 1], "progress makes patience new"


@pytest.mark.parametrize("answer", [whole, other_span], ids=["ignores Range", "another range"])
def test_a_range_that_is_not_honoured(server: BadServer, tmp_path: Path, answer: Answer) -> None:
    fetch(server, tmp_path, break_at(100_000), answer)
    assert only(tmp_path) == BODY


def test_a_mirror_begins_from_the_start(server: BadServer, tmp_path: Path) -> None:
    """Its file may be another: it never continues what the first address began."""
    server.files["/mirror"] = NEW
    broken = [break_at(100_000), *[status(503)] * (PATIENCE + 1)]
    fetch(server, tmp_path, *broken, mirrors=(server.url("/mirror"),))
    assert only(tmp_path) == NEW
    assert server.asked("Range")[-1] == ""


def test_a_rest_without_a_validator_is_taken(server: BadServer, tmp_path: Path) -> None:
    fetch(server, tmp_path, break_at(100_000), nameless_rest)
    assert only(tmp_path) == BODY
    assert len(server.seen) == 2


@pytest.mark.parametrize("heeds", [True, False])
def test_a_file_that_changes_midway_is_never_mixed(
    server: BadServer, tmp_path: Path, heeds: bool
) -> None:
    fetch(server, tmp_path, break_at(100_000), replaced(NEW, heeds_if_range=heeds))
    assert only(tmp_path) == NEW


def test_killed_when_the_new_content_has_only_begun(server: BadServer, tmp_path: Path) -> None:
    """The notes of the new content never stand beside bytes of the old one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "write_json", stop_at_second(module.write_json))
        with pytest.raises(KeyboardInterrupt):
            fetch(server, tmp_path, break_at(100_000), replaced(NEW, heeds_if_range=True))
    fetch(server, tmp_path)
    assert only(tmp_path) == NEW


def stop_at_second(real: Callable[..., None]) -> Callable[..., None]:
    """``real``, and a Ctrl-C right after its second call."""
    calls = []

    def stopping(*args: Any) -> None:
        real(*args)
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt

    return stopping


def test_a_file_that_became_shorter(server: BadServer, tmp_path: Path) -> None:
    fetch(server, tmp_path, break_at(250_000), replaced(NEW[:1000], heeds_if_range=False))
    assert only(tmp_path) == NEW[:1000]


def test_without_a_validator_it_starts_anew(server: BadServer, tmp_path: Path) -> None:
    def nameless(handler: Any, body: bytes) -> None:
        handler.begin(200, Content_Length=str(len(body)), ETag='W/"weak"')
        handler.wfile.write(body[:100_000])

    fetch(server, tmp_path, nameless)
    assert only(tmp_path) == BODY
    assert server.asked("Range") == ["", ""]


def test_a_length_that_is_too_long_is_waited_out(server: BadServer, tmp_path: Path) -> None:
    fetch(server, tmp_path, claim(+500))
    assert only(tmp_path) == BODY


def test_a_length_that_is_not_the_known_one(server: BadServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 299,500 bytes, expected 300,000"):
        fetch(server, tmp_path, claim(-500), bytes=len(BODY))
    assert not (tmp_path / "file").exists()


def test_a_length_too_short_is_caught_by_the_checksum(server: BadServer, tmp_path: Path) -> None:
    fetch(server, tmp_path, claim(-500), md5=hashlib.md5(BODY).hexdigest())
    assert only(tmp_path) == BODY


def test_a_wrong_checksum_is_tried_twice(server: BadServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected 00ff, twice"):
        fetch(server, tmp_path, sha256="00ff")
    assert len(server.seen) == 2
    assert not list(tmp_path.iterdir())


def test_waiting_as_the_server_asks(server: BadServer, tmp_path: Path) -> None:
    answers = [status(429, Retry_After="7"), status(503), status(500), status(503, Retry_After="x")]
    assert fetch(server, tmp_path, *answers) == [7, 2, 4, 8]
    assert only(tmp_path) == BODY


def test_pauses_grow_and_end(server: BadServer, tmp_path: Path) -> None:
    pauses: list[float] = []
    server.answers["/file"] = [status(503)] * 20
    item = Download("file", server.url("/file"), "file")
    with pytest.raises(UserError, match="answered 503; given up"):
        download(item, tmp_path / "file", pause=pauses.append)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_patience_ends_and_the_next_run_resumes(server: BadServer, tmp_path: Path) -> None:
    stuck = [break_at(100_000)] * (PATIENCE + 2)
    with pytest.raises(UserError, match=f"given up after {PATIENCE + 1} attempts") as error:
        fetch(server, tmp_path, *stuck)
    assert "Run the command again" in str(error.value)
    assert (tmp_path / "file.part").stat().st_size == 100_000
    server.seen.clear()
    fetch(server, tmp_path)
    assert server.asked("Range") == ["bytes=100000-"]
    assert only(tmp_path) == BODY


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (page, "an HTML page"),
        (status(404), "answered 404"),
        (status(403), "set HF_TOKEN"),
        (redirect("ftp://nowhere.invalid/file"), "the request failed"),
    ],
)
def test_an_answer_that_is_not_the_file(
    server: BadServer, tmp_path: Path, answer: Answer, why: str
) -> None:
    with pytest.raises(UserError, match=why):
        fetch(server, tmp_path, answer)
    assert not list(tmp_path.iterdir())
    fetch(server, tmp_path, answer, mirrors=(server.url("/file"),))
    assert only(tmp_path) == BODY


def test_endless_redirects(server: BadServer, tmp_path: Path) -> None:
    around = [redirect(server.url("/file"))] * 40
    with pytest.raises(UserError, match="TooManyRedirects"):
        fetch(server, tmp_path, *around)


def test_nobody_listens(tmp_path: Path) -> None:
    item = Download("file", "http://127.0.0.1:9/file?key=secret", "file")
    pauses: list[float] = []
    with pytest.raises(UserError, match="ConnectionError") as error:
        download(item, tmp_path / "file", pause=pauses.append)
    assert pauses == [1, 2, 4], "little patience where nobody ever answered"
    assert "secret" not in str(error.value)


def hub(server: BadServer, monkeypatch: pytest.MonkeyPatch, digest: str) -> Download:
    """A file of the hub, which redirects to a signed address on another host."""
    server.files["/cdn"] = BODY
    monkeypatch.setenv("HF_ENDPOINT", server.url(""))
    monkeypatch.setenv("HF_TOKEN", "hf_topsecret")
    to = server.url("/cdn?signature=alsosecret", host="localhost")
    linked = {"X_Linked_ETag": f'"{digest}"', "X_Linked_Size": str(len(BODY))}
    server.answers["/datasets/a/b"] = [redirect(to, **linked) for _ in range(30)]
    return Download("data", "https://huggingface.co/datasets/a/b", "file")


def test_the_token_goes_to_the_hub_alone(
    server: BadServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    item = hub(server, monkeypatch, hashlib.sha256(BODY).hexdigest())
    server.answers["/cdn"] = [break_at(100_000), good]
    download(item, tmp_path / "file", pause=lambda _: None)
    assert only(tmp_path) == BODY
    asked = [(path.partition("?")[0], h.get("Authorization", "")) for path, h in server.seen]
    assert asked == [("/datasets/a/b", "Bearer hf_topsecret"), ("/cdn", "")] * 2
    assert server.asked("Range") == ["", "", "bytes=100000-", "bytes=100000-"]
    printed = capsys.readouterr()
    assert "secret" not in printed.out + printed.err
    elsewhere = Download("file", server.url("/file", host="localhost"), "file")
    download(elsewhere, tmp_path / "other", pause=lambda _: None)
    assert server.asked("Authorization")[-1] == ""


def test_the_hub_says_the_checksum_itself(
    server: BadServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"sha256 .*, twice") as error:
        download(hub(server, monkeypatch, "0" * 64), tmp_path / "file", pause=lambda _: None)
    assert "secret" not in str(error.value)


def test_addresses_are_shown_without_secrets() -> None:
    assert redact_url("https://me:pw@host.org:8/a/b.zip?key=1#x") == "https://host.org:8/a/b.zip"


def test_a_full_disk_says_so_and_keeps_what_came(
    server: BadServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr("coincide.data.download.write_json", lambda *_: None)
    with pytest.raises(UserError, match=r"is full: [\d,]+ bytes free.*resumes"):
        fetch(server, tmp_path)
    assert (tmp_path / "file.part").stat().st_size == len(BODY)


def test_killed_in_the_middle(server: BadServer, tmp_path: Path) -> None:
    def slow(handler: Any, body: bytes) -> None:
        part(handler, body, 150_000)
        time.sleep(30)

    server.answers["/file"] = [slow]
    script = (
        "from pathlib import Path; from coincide.data import download as d; d.CHUNK = 10000;"
        f"d.download(d.Download('file', {server.url('/file')!r}, 'file'), Path({str(tmp_path)!r})"
        " / 'file')"
    )
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ})
    begun = tmp_path / "file.part"
    while not (begun.is_file() and begun.stat().st_size):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    have = begun.stat().st_size
    fetch(server, tmp_path)
    assert only(tmp_path) == BODY
    assert server.asked("Range")[-1] == f"bytes={have}-"
