"""The Hugging Face Hub in miniature: repositories in its cache, or served from this machine."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
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
    """A Hub with one repository: its address, and the files that it was asked for."""
    with serving({repo: folder}, {}, commit) as (address, asked):
        yield address, asked


@contextmanager
def serving(
    repos: Mapping[str, Path], files: Mapping[str, bytes], commit: str = COMMIT
) -> Iterator[tuple[str, list[str]]]:
    """A Hub with ``repos``, which also gives ``files``: its address, and the files asked for.

    ``repos``: name (of a dataset with ``datasets/`` before it) -> folder, in which every file is
    one of the repository. ``files``: path of an address -> content, for other publishers.
    """
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(repos, files, commit, asked))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(
    repos: Mapping[str, Path], plain: Mapping[str, bytes], commit: str, asked: list[str]
) -> type[BaseHTTPRequestHandler]:
    contents = {repo: _contents(folder) for repo, folder in repos.items()}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.respond()

        def do_GET(self) -> None:
            self.respond()

        def respond(self) -> None:
            path = unquote(urlsplit(self.path).path).removeprefix("/")
            if path in plain:
                self.reply(plain[path])
                return
            where, what, repo = _place(path, repos)
            if where == "api":
                self.reply(_described(repo, contents[repo], commit, listing="/tree/" in what))
            elif where == "resolve" and what in contents[repo]:
                if self.command == "GET":
                    asked.append(what)
                self.reply(contents[repo][what].read_bytes(), of_repo=True)
            else:
                self.send_error(404)

        def reply(self, body: bytes, *, of_repo: bool = False) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            if of_repo:
                self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
                self.send_header("X-Repo-Commit", commit)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    return Handler


def _contents(folder: Path) -> dict[str, Path]:
    """Relative path -> file."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path for path in found}


def _place(path: str, repos: Mapping[str, Path]) -> tuple[str, str, str]:
    """What of which repository an address is about: ``api`` or ``resolve``, the rest, its name."""
    for repo in repos:
        api = f"api/{repo if repo.startswith('datasets/') else f'models/{repo}'}"
        if path == api or path.startswith(f"{api}/"):
            return "api", path.removeprefix(api), repo
        if path.startswith(f"{repo}/resolve/"):
            return "resolve", path.removeprefix(f"{repo}/resolve/").partition("/")[2], repo
    return "", "", ""


def _described(repo: str, files: Mapping[str, Path], commit: str, *, listing: bool) -> bytes:
    """What the API says of a repository: its tree, or what it is."""
    if listing:
        sizes = {name: file.stat().st_size for name, file in files.items()}
        tree = [{"type": "file", "path": n, "size": s, "oid": commit} for n, s in sizes.items()]
        return json.dumps(tree).encode()
    name = repo.removeprefix("datasets/")
    siblings = [{"rfilename": file} for file in files]
    return json.dumps({"id": name, "sha": commit, "siblings": siblings}).encode()
