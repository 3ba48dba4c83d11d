"""A web server that does to a download what real ones do, one answer after the other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

Answer = Callable[["Handler", bytes], None]


@dataclass
class BadServer:
    """``files`` by path; ``answers`` by path, the first taken by each request, else ``good``."""

    files: dict[str, bytes] = field(default_factory=dict)
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """Path and headers of every request."""
    port: int = 0

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def asked(self, header: str) -> list[str]:
        return [headers.get(header, "") for _, headers in self.seen]


@contextmanager
def bad_server(**files: bytes) -> Iterator[BadServer]:
    """Serve ``files``, each under ``/<name>``."""
    state = BadServer({f"/{name}": content for name, content in files.items()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"state": state}))
    server.daemon_threads = True
    state.port = server.server_address[1]
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    state: BadServer

    def do_GET(self) -> None:
        self.state.seen.append((self.path, dict(self.headers)))
        path = self.path.partition("?")[0]
        queue = self.state.answers.get(path, [])
        answer = queue.pop(0) if queue else good
        answer(self, self.state.files.get(path, b""))

    def log_message(self, *_: object) -> None:
        pass

    def begin(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def asked_from(self) -> int:
        value = self.headers.get("Range", "")
        return int(value.removeprefix("bytes=").partition("-")[0]) if value else 0


def tag(body: bytes) -> str:
    return f'"{hashlib.md5(body).hexdigest()}"'


def good(handler: Handler, body: bytes) -> None:
    """As a sound server answers: Range and If-Range honoured, 404 for what is not there."""
    part(handler, body, len(body))


def part(handler: Handler, body: bytes, end: int, **more: str) -> None:
    """A sound head, and the body up to byte ``end``."""
    if not body:
        return handler.begin(404, Content_Length="0")
    begin = handler.asked_from()
    if begin and handler.headers.get("If-Range") not in (None, tag(body)):
        begin = 0
    if begin >= len(body):
        return handler.begin(416, Content_Range=f"bytes */{len(body)}", Content_Length="0")
    span = {"Content_Range": f"bytes {begin}-{len(body) - 1}/{len(body)}"} if begin else {}
    length = str(len(body) - begin)
    handler.begin(206 if begin else 200, Content_Length=length, ETag=tag(body), **span, **more)
    return write(handler, body[begin:end])


def write(handler: Handler, data: bytes) -> None:
    handler.wfile.write(data)
    handler.wfile.flush()
    handler.close_connection = True


def break_at(end: int) -> Answer:
    return lambda handler, body: part(handler, body, end)


def claim(difference: int) -> Answer:
    """Lie about the length by ``difference`` bytes."""

    def answer(handler: Handler, body: bytes) -> None:
        handler.begin(200, Content_Length=str(len(body) + difference), ETag=tag(body))
        write(handler, body)

    return answer


def status(code: int, **headers: str) -> Answer:
    return lambda handler, _: handler.begin(code, Content_Length="0", **headers)


def redirect(to: str, **headers: str) -> Answer:
    return status(302, Location=to, **headers)


def page(handler: Handler, _: bytes) -> None:
    """A login page, with status 200."""
    body = b"<!doctype html><html><body>Please log in</body></html>"
    handler.begin(200, Content_Type="text/html; charset=utf-8", Content_Length=str(len(body)))
    write(handler, body)


def whole(handler: Handler, body: bytes) -> None:
    """Ignore Range."""
    handler.begin(200, Content_Length=str(len(body)), ETag=tag(body))
    write(handler, body)


def other_span(handler: Handler, body: bytes) -> None:
    """Answer a Range with the wrong one."""
    begin = handler.asked_from() + 1000
    span = f"bytes {begin}-{len(body) - 1}/{len(body)}"
    handler.begin(
        206, Content_Range=span, Content_Length=str(len(body) - begin), ETag=tag(body)
    )  # fmt: skip
    write(handler, body[begin:])


def nameless_rest(handler: Handler, body: bytes) -> None:
    """Honour Range, and leave the ETag out of the answer."""
    begin = handler.asked_from()
    span = f"bytes {begin}-{len(body) - 1}/*"
    handler.begin(206, Content_Range=span, Content_Length=str(len(body) - begin))
    write(handler, body[begin:])


def replaced(new: bytes, *, heeds_if_range: bool) -> Answer:
    """From now on the file is ``new``; some servers hand out the middle of it all the same."""

    def answer(handler: Handler, _: bytes) -> None:
        handler.state.files[handler.path] = new
        if not heeds_if_range:
            del handler.headers["If-Range"]
        part(handler, new, len(new))

    return answer
