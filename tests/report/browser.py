"""A headless Chromium driven over its debugging pipe: enough to open a page and ask it things."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def installed() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One tab. ``problems`` are console errors, exceptions and violations of the page's policy."""

    def __init__(self, to_chrome: int, from_chrome: int) -> None:
        self._in = os.fdopen(to_chrome, "wb", buffering=0)
        self._out = os.fdopen(from_chrome, "rb")
        self._session: str | None = None
        self._last = 0
        self.problems: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._in.write(json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._last:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, page: Path, width: int, height: int = 900) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        self.call("Page.navigate", url=page.as_uri())
        while (event := self._read()).get("method") != "Page.loadEventFired":
            self._note(event)

    def ask(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    def close(self) -> None:
        self._session = None
        self.call("Browser.close")
        self._in.close()
        self._out.close()

    def _read(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self._out.read(1)) not in (b"\0", b""):
            text += byte
        if not byte:
            raise RuntimeError("the browser ended")
        return json.loads(text)

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event.get("method") == "Log.entryAdded":
            self.problems.append(f"{params['entry']['level']}: {params['entry']['text']}")
        if event.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.problems.append(json.dumps(params)[:300])
        if event.get("method") == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith(("file:", "data:", "about:")):
                self.problems.append(f"request to {url}")


@contextmanager
def browser(program: str, folder: Path) -> Iterator[Browser]:
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    ours = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_read, from_write)]
    process = subprocess.Popen(
        [
            "bash", "-c", f'exec "$@" 3<&{ours[0]} 4>&{ours[1]}', "bash",  # chromium reads 3
            program, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
            f"--user-data-dir={folder}", "--no-first-run", "--disable-dev-shm-usage",
        ],
        pass_fds=ours, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for end in (to_read, from_write, *ours):
        os.close(end)
    try:
        tab = Browser(to_write, from_read)
        yield tab
        tab.close()
        process.wait(20)
    finally:
        if process.poll() is None:
            process.kill()
