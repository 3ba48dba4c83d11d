"""The judge of LLaVA-W and MM-Vet: any OpenAI-compatible server. A failed call is no number.

lmms-eval's own clients turn a judge that fails into a score (LLaVA-W 100.0, MM-Vet 0). Its tasks
keep their prompts and the way they read a reply; the call in between is this one.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from coincide.requirements import Requirement
from coincide.schema import UserError

FAILED = "judge failed: "
"""How a reply begins that stands for a failed call."""
PASSING = (408, 409, 425, 429)
"""HTTP statuses, beside 5xx, after which the same call may succeed."""
IN_A_ROW = 3
"""Failed calls in a row after which the rest is not tried."""


@dataclass(frozen=True)
class Judge:
    """Where the judge is. Without a ``url`` there is none, and its benchmarks are left out."""

    url: str | None = None
    """Up to the version, e.g. ``https://api.openai.com/v1``."""
    model: str | None = None
    key_env: str | None = "OPENAI_API_KEY"
    """Environment variable with the key; null: the server wants none."""
    timeout: float = 60.0
    """Seconds for one reply."""
    tries: int = 6
    """Of one call, all kinds of failure together."""
    wait: float = 1.0
    """Seconds before the second try; doubled each time, at most 30."""

    def __post_init__(self) -> None:
        if self.url is not None and urlsplit(self.url).scheme not in ("http", "https"):
            raise UserError("eval.judge.url: expected an address that begins with http(s)://.")
        if self.url is not None and not self.model:
            raise UserError("eval.judge.model: expected the name of the judge model.")
        if type(self.tries) is not int or self.tries < 1:
            raise UserError(f"eval.judge.tries={self.tries!r}; expected an int >= 1.")

    @property
    def host(self) -> str:
        """Host and port of the address, without what may be secret in it."""
        parts = urlsplit(self.url or "")
        return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)

    def absent(self) -> str:
        """Why there is no judge; empty when there is one."""
        if self.url is None:
            return (
                "scored by a judge model, and none is configured: set eval.judge.url and "
                "eval.judge.model"
            )
        if self.key_env and not os.environ.get(self.key_env):
            return (
                f"scored by a judge model, whose key is read from ${self.key_env}, which is not "
                "set (eval.judge.key_env=null for a server that wants none)"
            )
        return ""

    def requirement(self, names: list[str]) -> Requirement:
        """That there is one, for the benchmarks ``names``; they are left out otherwise."""
        why = self.absent()
        found = f"{self.model} at {self.host}" if not why else f"left out: {why}"
        remedy = "eval.judge.url=... eval.judge.model=..., and the key in its variable"
        return Requirement(f"judge ({', '.join(names)})", not why, found, remedy, fatal=False)


class ReplyCache(Protocol):
    """Replies of earlier attempts."""

    def get(self, prompt: str) -> str | None: ...
    def add(self, prompt: str, reply: str) -> None: ...


class JudgeError(Exception):
    """A call that gave no usable reply, after all its tries."""


@dataclass
class JudgeClient:
    """Asks the judge, in one process."""

    judge: Judge
    key: str = field(default="", repr=False)
    in_a_row: int = 0
    memory: ReplyCache | None = None
    """What it replied before is not asked again."""
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)

    def ask(
        self,
        prompt: str,
        readable: Callable[[str], bool],
        *,
        temperature: float = 0.0,
        max_tokens: int,
    ) -> str:
        """A reply that is ``readable``. Raises :class:`JudgeError` with the reason.

        Rate limits, server errors, timeouts and unreadable replies are tried again, waiting longer
        each time; after an unreadable reply the temperature rises by 0.5, as MM-Vet does.
        """
        known = self.memory.get(prompt) if self.memory else None
        if known is not None and readable(known):
            return known
        reply = self._insist(prompt, readable, temperature, max_tokens)
        if self.memory:
            self.memory.add(prompt, reply)
        return reply

    def _insist(
        self, prompt: str, readable: Callable[[str], bool], temperature: float, max_tokens: int
    ) -> str:
        if self.in_a_row >= IN_A_ROW:
            raise JudgeError(f"not asked: {IN_A_ROW} calls in a row failed")
        why = ""
        for attempt in range(self.judge.tries):
            if attempt:
                self.sleep(min(self.judge.wait * 2 ** (attempt - 1), 30.0))
            try:
                reply = self._post(prompt, temperature, max_tokens)
            except _Passing as error:
                why = str(error)
                continue
            except JudgeError:
                self.in_a_row += 1
                raise
            if readable(reply):
                self.in_a_row = 0
                return reply
            why = "malformed reply"
            temperature = min(temperature + 0.5, 2.0)
        self.in_a_row += 1
        raise JudgeError(f"{why}, {self.judge.tries} tries")

    def _post(self, prompt: str, temperature: float, max_tokens: int) -> str:
        assert self.judge.url is not None
        address = self.judge.url.rstrip("/").removesuffix("/chat/completions")
        content = {
            "model": self.judge.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": temperature,
            "max_tokens": max_tokens,
        }
        request = urllib.request.Request(
            f"{address}/chat/completions",
            data=json.dumps(content).encode(),
            headers={
                "Content-Type": "application/json",
                **({"Authorization": f"Bearer {self.key}"} if self.key else {}),
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=self.judge.timeout) as response:
                return _text(response.read())
        except urllib.error.HTTPError as error:
            kind = _Passing if error.code in PASSING or error.code >= 500 else JudgeError
            raise kind(f"HTTP {error.code}") from error
        except TimeoutError as error:
            raise _Passing("timeout") from error
        except (OSError, ValueError) as error:
            raise _Passing(f"no answer ({type(error).__name__})") from error


class _Passing(JudgeError):
    """A failure that may pass."""


def _text(body: bytes) -> str:
    """The reply in the server's answer; empty, hence unreadable, where it has none."""
    try:
        reply: Any = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        return ""
    return reply.strip() if isinstance(reply, str) else ""
