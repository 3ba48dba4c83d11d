"""The judge model of LLaVA-W and MM-Vet, on any OpenAI-compatible server.

lmms-eval's own clients turn a failed call into a score (LLaVA-W 100.0, MM-Vet 0). Its tasks keep
their prompts and their way to read a reply; the call itself is made here, and a failed call gives
no number.
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

from coincide.protocols import Requirement
from coincide.schema import UserError

FAILED = "judge failed: "
"""Prefix of a reply that stands for a failed call."""
PASSING = (408, 409, 425, 429)
"""HTTP statuses besides 5xx that are worth another try."""
IN_A_ROW = 3
"""Failed calls in a row after which no more calls are made."""


@dataclass(frozen=True)
class Judge:
    """Address and settings of the judge.

    Without a ``url``, benchmarks that need it are left out.
    """

    url: str | None = None
    """Address up to the version, e.g. ``https://api.openai.com/v1``."""
    model: str | None = None
    key_env: str | None = "OPENAI_API_KEY"
    """Environment variable with the key; null: the server needs none."""
    timeout: float = 60.0
    """Seconds for one reply."""
    tries: int = 6
    """Most tries of one call, all kinds of failure together."""
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
        """Host and port of the address, without parts that may be secret."""
        parts = urlsplit(self.url or "")
        return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)

    def absent(self) -> str:
        """Why there is no judge; empty if there is one."""
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
        """The judge as a requirement of the benchmarks ``names``.

        Not fatal: without it they are left out.
        """
        why = self.absent()
        found = f"{self.model} at {self.host}" if not why else f"left out: {why}"
        remedy = "eval.judge.url=... eval.judge.model=..., and the key in its variable"
        return Requirement(f"judge ({', '.join(names)})", not why, found, remedy, fatal=False)


class ReplyCache(Protocol):
    """Replies to prompts that earlier attempts received."""

    def get(self, prompt: str) -> str | None: ...
    def add(self, prompt: str, reply: str) -> None: ...


class JudgeError(Exception):
    """A call that gave no usable reply in all its tries."""


@dataclass
class JudgeClient:
    """Calls the judge, for one process."""

    judge: Judge
    key: str = field(default="", repr=False)
    in_a_row: int = 0
    memory: ReplyCache | None = None
    """Prompts with a reply in it are not sent again."""
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)

    def ask(
        self,
        prompt: str,
        readable: Callable[[str], bool],
        *,
        temperature: float = 0.0,
        max_tokens: int,
    ) -> str:
        """A reply for which ``readable`` is true. Raises :class:`JudgeError` with the reason.

        After rate limits, server errors, timeouts and unreadable replies the call is repeated, with
        longer and longer waits; after an unreadable reply the temperature rises by 0.5, as in
        MM-Vet.
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
    """A failure that another try may not have."""


def _text(body: bytes) -> str:
    """The reply in the server's answer; empty, hence unreadable, if there is none."""
    try:
        reply: Any = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        return ""
    return reply.strip() if isinstance(reply, str) else ""
