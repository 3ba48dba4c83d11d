"""Fields of a row or turn that say what is to be learnt; honoured if they exclude whole turns.

Read as "this turn is learnt, or not": ``loss`` (ms-swift), ``weight`` (OpenAI), ``loss_weight``
(LLaMA-Factory), ``train`` and ``training`` (axolotl), ``output_with_loss`` (xtuner), ``loss_mask``
and similar, as true, false, 1 or 0. Anything else that changes what is learnt (other weights, a
part of a turn, rejected answers, tools) is a fault of the row: ignoring it would silently train
another model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from coincide.data.fault import BadRow, plain_name, short

LOSS = "loss"
"""The mark as the product writes it: ``"loss": false`` on a turn that is not to be learnt."""
LEARNT = frozenset({LOSS, "weight", "loss_weight", "loss_scale", "loss_mask", "loss_weights",
                    "compute_loss", "train", "training", "trainable", "train_on", "train_on_turn",
                    "train_turn", "trained", "is_trainable", "learn", "output_with_loss",
                    "supervised"})  # fmt: skip
"""Fields of a turn that say whether it is learnt."""
UNLEARNT = frozenset({"no_loss", "ignore_loss", "skip_loss", "exclude_from_loss"})
"""Fields of a turn that say that it is not learnt: the other way round."""
UNCLEAR = frozenset({"train_detail", "training_detail", "mask", "masked", "is_masked", "masks",
                     "weights", "token_weights", "label_mask", "labels", "input_ids",
                     "assistant_mask", "assistant_masks", "completion_mask",
                     "answer_mask"})  # fmt: skip
"""Fields of a turn that change what is learnt in an unsupported or ambiguous way."""
_SUSPECT = re.compile(
    r"(?:.*_)?(?:loss(?:es)?|weights?|train|trained|training|trainable|learn|learnt|learned|learnable|"
    r"supervised?|supervision|backprop|backpropagate|grads?|gradients?|detach|detached|freeze|frozen|"
    r"mask|masks|masked|ignored?|skip|skipped|exclude|excluded|importance)(?:_.*)?"
)
"""Other fields of an answer that say how it is learnt, if they hold numbers or truth values."""
_LIMITS = re.compile(
    r"(?:.*_)?(?:masks?|masked|ignored?|skip|skipped|excluded?|detach|detached|freeze|frozen|no|not|"
    r"dont|never|without|last|only|history)(?:_.*)?"
)
"""Of these, names that leave something out if they are true; the others do if they are false."""
_ASKING = re.compile("prompt|input|question|user|instruction")
_IN = re.compile(
    "(?:is_|use_|should_)*(?:included?|enabled?|active|keep|kept|used?|valid|targets?|labels?|sft|"
    "chosen|accepted|preferred|desirable)"
)
"""Fields of an answer that leave it out if they are false."""
_OUT = re.compile(
    "(?:is_)?(?:hidden|hide|drop|dropped|removed?|deleted?|disabled?|context|prompt|input|eval|"
    "invalid|rejected)(?:_only)?"
)
"""Fields of an answer that leave it out if they are true."""
_ENDS = frozenset({"eos", "add_eos", "append_eos", "eot", "add_eot", "end_turn", "end_of_turn"})
"""Fields of an answer that leave out its end token if they are false."""
_TURNS = re.compile(
    "(?:.*_)?turns?_(?:weights?|masks?|loss(?:es)?)|"
    "(?:.*_)?(?:train|trained|trainable|learn|learnt|loss|masked|skip|ignored?)_(?:on_)?turns"
)
"""Fields of a row with a number or truth value for each turn."""
WEIGHTS = frozenset({"sample_weight", "example_weight", "instance_weight", "importance_weight",
                     "sample_weights", "sampling_weight", "sample_ratio", "sampling_ratio",
                     "repeat", "repeats", "num_repeats", "repeat_times", "oversample"})  # fmt: skip
"""Fields of a row that say how much or how often it counts."""
_KTO = frozenset({"label", "kto_tag", "desirable", "is_desirable", "preferred", "accepted"})
TOOLS = frozenset({"tools", "functions", "function_call", "tool_calls", "tool_call_id",
                   "tool_choice"})  # fmt: skip
UNREAD_TEXT = frozenset({"reasoning_content", "reasoning", "thinking", "thought", "refusal",
                         "prefix", "suffix", "backtrack_content"})  # fmt: skip
"""Fields of a turn with text that other trainers put into or before the answer."""
_PREFERENCE = ("rejected", "chosen", "negative", "positive", "preferred", "non_preferred")
_WHAT = ("", "s", "_response", "_responses", "_answer", "_output", "_messages", "_message",
         "_conversations", "_conversation", "_completion", "_completions", "_images", "_image",
         "_text")  # fmt: skip
PREFERENCE = frozenset(first + what for first in _PREFERENCE for what in _WHAT)
"""Fields of a row with a second answer, for preference training."""
MARK = "mark of what is learnt"
TOOL = "tool call"
UNREAD = "text that is not read"
SECOND = "preference data"
FAULTS = (MARK, TOOL, UNREAD, SECOND)
"""Kinds of faults found here."""


def is_learnt(turn: str, fields: Mapping[str, Any], answer: bool) -> bool:
    """Whether a turn with ``fields`` is learnt, according to its marks.

    ``turn`` names it in errors. Raises :class:`BadRow` for marks that are unsupported or contradict
    each other, or that ask to learn a turn that is no ``answer``.
    """
    said: dict[str, bool] = {}
    for key, value in fields.items():
        name = plain_name(key)
        if _empty(value):
            continue
        if name in LEARNT:
            said[key] = _yes(turn, key, value)
        elif name in UNLEARNT:
            said[key] = not _yes(turn, key, value)
        elif name in UNCLEAR or (answer and _says(name, value)) or _nested(value):
            raise BadRow(MARK, f"{turn} has {key!r}: {short(value)}; say \"{LOSS}\": false of a "
                               "turn that is not to be learnt")  # fmt: skip
        elif name in TOOLS or (name == "recipient" and value not in ("all", "user")):
            raise BadRow(TOOL, f"{turn} has {key!r}, which is not read")
        elif name in UNREAD_TEXT and isinstance(value, (str, list, dict)):
            raise BadRow(UNREAD, f"{turn} has {key!r}: {short(value)}")
    if len(set(said.values())) > 1:
        raise BadRow(MARK, f"{turn} is marked both ways: {short(said)}")
    if not answer and True in said.values():
        raise BadRow(MARK, f"{turn} is no answer and marked to be learnt: only answers are")
    return not answer or False not in said.values()


def refuse_row(fields: Mapping[str, Any]) -> None:
    """Raise :class:`BadRow` if a field of a row changes what is learnt from it."""
    for key, value in fields.items():
        name = plain_name(key)
        if not value and value is not False and value != 0:
            continue
        if name in PREFERENCE and isinstance(value, (str, list, dict)):
            raise BadRow(SECOND, f"{key!r} is a second answer; rows have one")
        if name in TOOLS and value and value != "[]":
            raise BadRow(TOOL, f"the row has {key!r}: tools are not read")
        if _changes(name, _read(value)) or _nested(value):
            raise BadRow(MARK, f"the row has {key!r}: {short(value)}; marks are read of turns: "
                               f"\"{LOSS}\": false")  # fmt: skip


def _says(name: str, value: Any) -> bool:
    """Whether the field ``name`` of an answer says how it is learnt."""
    if isinstance(value, bool):
        out = _OUT.fullmatch(name) is not None
        if out or _IN.fullmatch(name) or name in _ENDS:
            return value is out
    return _SUSPECT.fullmatch(name) is not None and _figures(value)


def _nested(value: Any) -> bool:
    """Whether an object of notes holds a mark that leaves a turn or row out, or weighs it."""
    return isinstance(value, dict) and any(
        isinstance(inner, (bool, int, float))
        and 0 <= inner <= 1  # other numbers are notes: a weight in kg
        and plain_name(key) in LEARNT | UNLEARNT | WEIGHTS
        and _changes(plain_name(key), inner)
        for key, inner in value.items()
    )


def _changes(name: str, value: Any) -> bool:
    """Whether the row's field ``name`` says that it is learnt differently from others."""
    if name in _KTO:  # an answer not to be given
        return value is False
    if name == LOSS:  # a number here is a score: what some model's loss on the row was
        return value is False
    if name in ("train_on_inputs", "train_on_prompt", "train_on_input"):
        return bool(value)
    if name in ("train_on_outputs", "train_on_completion"):
        return not value
    if name == "roles_to_train":
        return value not in (["assistant"], ["gpt"], "assistant", "gpt")
    if name in UNLEARNT or name in ("skip", "ignore", "exclude"):
        return not isinstance(value, str) and bool(value)
    if name in LEARNT or name in WEIGHTS:
        return not isinstance(value, str) and value != 1
    if isinstance(value, bool) and _SUSPECT.fullmatch(name):
        return value is _leaves_out(name)
    if _TURNS.fullmatch(name):
        return isinstance(value, list)
    return name in UNCLEAR - {"labels", "masks", "mask"} or (
        name in ("labels", "masks", "mask") and isinstance(value, list) and _figures(value)
    )


def _leaves_out(name: str) -> bool:
    """Whether the field ``name`` of a row changes what is learnt if it is true, not if false."""
    if name.endswith("_only_loss"):
        return False
    limits = _LIMITS.fullmatch(name) is not None
    return limits != (_ASKING.search(name) is not None)


def _read(value: Any) -> Any:
    """A text of a table as the number or truth value that it says."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    if text in ("true", "false"):
        return text == "true"
    with suppress(ValueError):
        return float(text)
    return value


def _figures(value: Any) -> bool:
    """Whether ``value`` is a number, a truth value, or a list of these, like a token mask."""
    items = value if isinstance(value, list) else [value]
    return bool(items) and all(isinstance(item, (bool, int, float)) for item in items)


def _yes(turn: str, key: str, value: Any) -> bool:
    if isinstance(value, (bool, int, float)) and value in (0, 1):
        return bool(value)
    raise BadRow(MARK, f"{turn} has {key!r}: {short(value)}; only true, false, 1 and 0 are done")


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, (str, list, dict)) and not value)
