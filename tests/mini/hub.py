"""A repository of the Hugging Face Hub: in its cache, laid out by hand, or served from here."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cache_repository(cache: Path, repo: str, folder: Path, commit: str = COMMIT) -> Path:
    """Put the files of ``folder`` into ``cache`` (``HF_HOME/hub``) as ``repo`` at ``main``."""
    root = cache / f"models--{repo.replace('/', '--')}"
    snapshot, blobs = root / "snapshots" / commit, root / "blobs"
    for made in (snapshot, blobs, root / "refs"):
        made.mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(commit)
    for number, file in enumerate(sorted(path for path in folder.iterdir() if path.is_file())):
        shutil.copyfile(file, blobs / f"{number:040x}")
        (snapshot / file.name).symlink_to(Path("..") / ".." / "blobs" / f"{number:040x}")
    return snapshot


@contextmanager
def served(folder: Path, repo: str, commit: str = COMMIT) -> Iterator[tuple[str, list[str]]]:
    """A Hub on this machine with one repository: its address, and the files it was asked for."""
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(folder, repo, commit, asked))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(
    folder: Path, repo: str, commit: str, asked: list[str]
) -> type[BaseHTTPRequestHandler]:
    files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.respond()

        def do_GET(self) -> None:
            self.respond()

        def respond(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if path.startswith(f"/api/models/{repo}/tree/"):
                listing = [
                    {"type": "file", "path": name, "size": file.stat().st_size, "oid": commit}
                    for name, file in files.items()
                ]
                self.reply(json.dumps(listing).encode())
            elif path.startswith(f"/api/models/{repo}"):
                siblings = [{"rfilename": name} for name in files]
                self.reply(json.dumps({"id": repo, "sha": commit, "siblings": siblings}).encode())
            elif path.startswith(f"/{repo}/resolve/") and path.rpartition("/")[2] in files:
                name = path.rpartition("/")[2]
                if self.command == "GET":
                    asked.append(name)
                self.reply(files[name].read_bytes(), name)
            else:
                self.send_error(404)

        def reply(self, body: bytes, name: str = "") -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            if name:
                self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
                self.send_header("X-Repo-Commit", commit)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    return Handler
