"""An OpenAI-compatible server on this machine, which answers, fails and stalls as a test says."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = str | int | bytes
"""A reply; an HTTP status; or a body as it is. A negative number: seconds without an answer."""


@dataclass
class FakeJudge:
    """What it was asked, and the answer to each prompt."""

    answer: Callable[[str, int], Answer] = lambda prompt, call: "1.0"
    """Prompt and number of the call, from 0."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving() -> Iterator[FakeJudge]:
    judge = FakeJudge()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            judge.asked.append(content)
            judge.paths.append(self.path)
            judge.keys.append(self.headers.get("Authorization"))
            answer = judge.answer(content["messages"][0]["content"], len(judge.asked) - 1)
            if isinstance(answer, int) and answer < 0:
                time.sleep(-answer)
                answer = 503
            status = answer if isinstance(answer, int) else 200
            body = answer if isinstance(answer, bytes) else _body(answer)
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except ConnectionError:
                pass  # the client gave up waiting

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    judge.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()


def _body(answer: str | int) -> bytes:
    message = {"role": "assistant", "content": answer}
    return json.dumps({"model": "fake", "choices": [{"message": message}]}).encode()
