"""Use our judge in lmms-eval's judged tasks: their prompts and reading of replies, our call."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from coincide.schema import UserError
from eval.judge import FAILED, JudgeClient, JudgeError

Globals = dict[str, Any]


def attach(task: Any, name: str, client: JudgeClient) -> None:
    """Replace the call to the judge in the module of the loaded task ``name``.

    Raises UserError for a task that is not known to be judged.
    """
    if name not in CALLS:
        raise UserError(f"task {name!r} is not known to ask a judge; those are {', '.join(CALLS)}.")
    CALLS[name](task.config.process_results.__globals__, client)


def failure(sample: Mapping[str, Any]) -> str | None:
    """Why the judge's mark of a logged sample is missing; None if it is there."""
    for value in sample.values():
        if isinstance(value, Mapping):
            for said in (value.get("eval_model"), value.get("review")):
                if isinstance(said, str) and said.startswith(FAILED):
                    return said.removeprefix(FAILED)
    return None


def _mmvet(module: Globals, client: JudgeClient) -> None:
    """Replace ``get_chat_response``, which returns reply and model.

    An empty reply means a failed call.
    """

    def ask(prompt: str, temperature: float = 0.0, **_: Any) -> tuple[str, str]:
        try:
            reply = client.ask(prompt, _is_share, temperature=temperature, max_tokens=128)
        except JudgeError as error:
            return "", f"{FAILED}{error}"
        return reply, str(client.judge.model)

    module["get_chat_response"] = ask


def _llava_w(module: Globals, client: JudgeClient) -> None:
    """Replace ``_get_pipeline()``, called with the prompt as ``content``.

    Scores -1 mean a failed call.
    """
    from lmms_eval.verifiers import VerifyResult

    read: Callable[[str], VerifyResult] = module["_parse_comparative_scores"]

    def readable(reply: str) -> bool:
        return min(read(reply).metadata["scores"]) >= 0 and read(reply).metadata["scores"][0] > 0

    def verify(*, content: str, **_: Any) -> VerifyResult:
        try:
            return read(client.ask(content, readable, max_tokens=1024))
        except JudgeError as error:
            failed = {"scores": [-1, -1]}
            return VerifyResult(0.0, False, raw_output=f"{FAILED}{error}", metadata=failed)

    module["_get_pipeline"] = lambda: verify


def _is_share(reply: str) -> bool:
    """Whether MM-Vet reads the reply as a number from 0 to 1."""
    first = reply.split(" ")[0].strip()
    return bool(re.fullmatch(r"[01](\.\d*)?|\.\d+", first)) and 0.0 <= float(first) <= 1.0


CALLS: Mapping[str, Callable[[Globals, JudgeClient], None]] = {
    "mmvet": _mmvet,
    "llava_in_the_wild": _llava_w,
}
