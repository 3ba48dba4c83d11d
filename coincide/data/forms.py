"""Find the conversation of a row in any of the formats that other trainers use.

``messages``, ``conversations`` or ``conversation`` with turns or with pairs; ``texts`` with pairs
(The Cauldron, FineVision); ``prompt`` and ``completion`` (TRL); ``instruction``, ``input`` and
``output`` (Alpaca); ``query`` and ``response`` (ms-swift), ``question`` and ``answer``; the last
three possibly with ``history``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from coincide.data.fault import BadRow, plain_name, short
from coincide.data.marks import LOSS, UNREAD, UNREAD_TEXT

TURNS = ("messages", "conversations", "conversation")
QUESTIONS = ("user", "human", "query", "question", "input", "instruction", "prompt")
ANSWERS = ("assistant", "gpt", "bot", "response", "answer", "output", "completion", "model")
SYSTEM = "system"
SYSTEMS = (SYSTEM, "system_prompt")
ASKED = ("query", "question", "prompt")
SAID = ("response", "answer", "completion", "output")
_ADDED = re.compile(
    "choices|options?|candidates|multiple_choices|contexts?|hint|passages?|paragraphs?|documents?|"
    "article|background|knowledge|lecture|story|(?:option|choice|opt)_?(?:[a-h]|[0-9])|op_?[a-h]"
)
"""Fields with answer choices or with a text that a question asks about, which readers of these
formats do not add to it."""
NONE = "no conversation"


@dataclass(frozen=True)
class Conversation:
    """``turns`` as messages, and the ``fields`` of the row that they come from."""

    turns: list[Any]
    fields: tuple[str, ...]


def conversation_of(value: Mapping[str, Any]) -> Conversation:
    """The conversation of a row. Raises :class:`BadRow` if no known format fits."""
    there = [name for name in (*TURNS, "texts") if value.get(name)]
    if there:
        turns = _turns(there[0], value[there[0]])
        refuse_other(there[0], turns, value)
        return Conversation(turns, (there[0],))
    if value.get("prompt") is not None and value.get("completion") is not None:
        return Conversation(_prompted(value), ("prompt", "completion"))
    if value.get("instruction") is not None and value.get("output") is not None:
        asked = [value["instruction"], value.get("input")]
        if not all(text is None or isinstance(text, str) for text in asked):
            raise BadRow(NONE, f"instruction and input are {short(asked)}, expected text")
        question = "\n".join(text for text in asked if text)
        fields = ("instruction", "input", "output", "history")
        _refuse_besides(value)
        return Conversation(_with_history(value, question, value["output"]), fields)
    asked_by = next((name for name in ASKED if value.get(name) is not None), None)
    said_by = next((name for name in SAID if value.get(name) is not None), None)
    if asked_by is None or said_by is None:
        raise BadRow(
            NONE,
            "neither messages nor conversations is a list with turns, nor is it texts, prompt and "
            f"completion, instruction and output, or query and response; got {short(list(value))}",
        )
    _refuse_besides(value, "instruction", "input", *UNREAD_TEXT)
    turns = _with_history(value, value[asked_by], value[said_by])
    return Conversation(turns, (asked_by, said_by, "history"))


def refuse_other(name: str, turns: list[Any], value: Mapping[str, Any]) -> None:
    """Raise :class:`BadRow` if the row has a second conversation, with other texts than ``turns``,
    those of its field ``name``.
    """
    for other in (*TURNS, "texts"):
        if other != name and value.get(other):
            try:
                same = _texts(_turns(other, value[other])) == _texts(turns)
            except BadRow:
                same = False
            if not same:
                raise BadRow(UNREAD, f"{name!r} and {other!r} differ; a row has one conversation")


def _texts(turns: list[Any]) -> list[str]:
    """What is said by turns of any form, to compare them: without system prompts, pictures and
    white space.
    """
    said = [turn for turn in turns if isinstance(turn, dict)]
    return [
        _squeezed(turn.get("content", turn.get("value")))
        for turn in said
        if turn.get("role", turn.get("from")) not in ("system", "developer")
    ]


def _squeezed(content: Any) -> str:
    if isinstance(content, list):
        content = "".join(str(p.get("text") or "") for p in content if isinstance(p, dict))
    return "".join(str(content).replace("<image>", "").split())


def _refuse_besides(value: Mapping[str, Any], *more: str) -> None:
    """Raise :class:`BadRow` for a field, ``more`` among them, that belongs to a question or answer
    and is not read.
    """
    lettered = {"A", "B"} if value.get("A") and value.get("B") else set()
    for key in value:
        name = plain_name(key)
        held = value[key] and isinstance(value[key], (str, list, dict))
        if held and (_ADDED.fullmatch(name) or name in more or key in lettered):
            raise BadRow(UNREAD, f"{key!r} belongs to the question or answer; write it there")


def from_json(value: Any) -> Any:
    """A list or object that a table holds as JSON text; ``value`` itself if it is none."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        with suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def _turns(name: str, value: Any) -> list[Any]:
    value = from_json(value)
    if isinstance(value, dict) and value and all(isinstance(v, list) for v in value.values()):
        lengths = {len(column) for column in value.values()}
        if len(lengths) == 1:  # datasets keeps a sequence of objects as columns
            value = [
                dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)
            ]
    if not isinstance(value, list):
        raise BadRow(NONE, f"neither messages nor conversations is a list with turns; {name!r} is "
                           f"{short(value)}")  # fmt: skip
    if all(isinstance(item, dict) and "role" not in item and "from" not in item for item in value):
        return [turn for item in value for turn in _pair(item)]
    if all(isinstance(item, (list, tuple)) for item in value):
        return _history(value)
    return value


def _pair(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A question and its answer as messages; other fields are kept with the answer."""
    # which fields hold the question and the answer
    asked = [name for name in QUESTIONS if item.get(name) is not None]
    said = [name for name in ANSWERS if item.get(name) is not None]
    # exactly one of each; Alpaca has two for the question, instruction and input
    if not said or (len(asked) > 1 and asked != ["input", "instruction"]) or len(said) > 1:
        raise BadRow("malformed turn", f"expected one question and one answer, got {short(item)}")
    _refuse_besides({name: found for name, found in item.items() if name not in (*asked, *said)})
    # the question: one field, or instruction and input on separate lines
    text = [item[name] for name in reversed(asked)]
    question = "\n".join(text) if len(text) > 1 else text[0] if text else ""
    # other fields may say what is learnt of the answer, so they stay with it
    more = {k: v for k, v in item.items() if k not in (*QUESTIONS, *ANSWERS, SYSTEM)}
    opening = [{"role": SYSTEM, "content": item[SYSTEM]}] if item.get(SYSTEM) else []
    return [*opening, {"role": "user", "content": question},
            {**more, "role": "assistant", "content": item[said[0]]}]  # fmt: skip


def _history(value: Any) -> list[dict[str, Any]]:
    """Earlier questions and answers: pairs, as lists or as mappings by speaker."""
    turns: list[dict[str, Any]] = []
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise BadRow("malformed turn", f"history is {short(value)}, expected [question, answer]")
    for item in value:
        if isinstance(item, dict):
            turns += [item] if "role" in item or "from" in item else _pair(item)
        elif isinstance(item, (list, tuple)) and len(item) == 2:
            turns += [
                {"role": "user", "content": item[0]},
                {"role": "assistant", "content": item[1]},
            ]
        else:
            raise BadRow("malformed turn", f"history holds {short(item)}, not [question, answer]")
    return turns


def _with_history(value: Mapping[str, Any], question: Any, answer: Any) -> list[dict[str, Any]]:
    return [*_history(value.get("history") or []), *_asked(question, answer)]


def _asked(question: Any, answer: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _prompted(value: Mapping[str, Any]) -> list[Any]:
    """TRL's format: only the completion is learnt; earlier answers in the prompt are not."""
    prompt, completion = value["prompt"], value["completion"]
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if isinstance(completion, str):
        completion = [{"role": "assistant", "content": completion}]
    if not isinstance(prompt, list) or not isinstance(completion, list):
        raise BadRow(NONE, f"prompt and completion are {short([prompt, completion])}")
    return [*map(_context, prompt), *completion]


def _context(message: Any) -> Any:
    """A message of the prompt; an answer in it is marked as not to be learnt."""
    if isinstance(message, dict) and message.get("role") in ("assistant", "gpt", "bot"):
        return {**message, LOSS: False}
    return message
