"""Where the assistant's texts stand in a conversation that a chat template wrote.

The positions are character positions in the rendered text: from the template's ``{% generation %}``
marks; without them from the difference between renderings that end before and after each answer;
and for a template that writes an answer otherwise once more turns follow (a thought in the last one
alone), from a rendering with a sign in the place of each answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from coincide.schema import Turn, UserError

MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
Span = tuple[int, int]
"""First character, and the one after the last."""


def rendering(processor: Any, messages: Sequence[Any], *, asking: bool = False) -> str:
    """The text of ``messages`` by the template; with ``asking`` it ends where an answer begins."""
    _template(processor)
    return str(
        processor.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=asking)
    )


def rendered_answers(
    processor: Any, turns: Sequence[Turn], messages: Sequence[Any]
) -> tuple[str, list[Span]]:
    """The text of a conversation, and the positions of its answers, as :func:`answer_spans` gives
    them.

    Where the template ends the last answer with no token, the tokenizer's end token is put behind
    it, so that ending is learnt. Raises UserError if there is none.
    """
    rendered = rendering(processor, messages)
    found = _found(processor, turns, messages, rendered)
    if not turns or turns[-1].role != "gpt" or not turns[-1].text or not found:
        return rendered, _learnt(turns, found)
    start, end = found[-1]
    if _ends(processor, rendered[start:end]) or rendered[end:].strip():
        return rendered, _learnt(turns, found)
    ending = processor.tokenizer.eos_token
    if ending is None:
        raise UserError(
            "the chat template ends an answer with no token, and the tokenizer names no end token "
            "(eos_token), so a model would never learn to stop. Name one in tokenizer_config.json."
        )
    rendered = rendered[:end] + ending + rendered[end:]
    return rendered, _learnt(turns, [*found[:-1], (start, end + len(ending))])


def answer_spans(
    processor: Any, turns: Sequence[Turn], messages: Sequence[Any], rendered: str
) -> list[Span]:
    """Positions of the answers in ``rendered``, each including the token that ends it.

    An empty answer has none, nor has one that is marked as not to be learnt.
    """
    return _learnt(turns, _found(processor, turns, messages, rendered))


def answer_ending(processor: Any) -> str:
    """The special token with which the template ends an answer; empty if it ends with none."""
    turns = (Turn("human", "a"), Turn("gpt", "b"))
    messages = [
        {"role": role, "content": [{"type": "text", "text": turn.text}]}
        for role, turn in zip(("user", "assistant"), turns, strict=True)
    ]
    rendered = rendering(processor, messages)
    spans = answer_spans(processor, turns, messages, rendered)
    said = rendered[slice(*spans[-1])] if spans else ""
    end = _ends(processor, said)
    return max(
        (t for t in special_tokens(processor) if said[:end].endswith(t)), key=len, default=""
    )


def special_tokens(processor: Any) -> tuple[str, ...]:
    """The tokens of the tokenizer that are no text: named ones, and those added as special."""
    tokenizer = processor.tokenizer
    added = tokenizer.added_tokens_decoder.values()
    found = (*tokenizer.all_special_tokens, *(str(t) for t in added if t.special))
    return tuple(dict.fromkeys(str(token) for token in found if token))


def _found(
    processor: Any, turns: Sequence[Turn], messages: Sequence[Any], rendered: str
) -> list[Span]:
    """The span of every answer; fewer where the template's marks tell fewer."""
    answers = [i for i, turn in enumerate(turns) if turn.role == "gpt"]
    if MARKS.search(_template(processor)):
        return _marked(processor, messages)
    try:
        return [_difference(processor, messages, i, rendered) for i in answers]
    except UserError:
        found = _signed(processor, turns, messages, rendered)
        if found is None:
            raise
        return found


def _learnt(turns: Sequence[Turn], spans: Sequence[Span]) -> list[Span]:
    """Those of ``spans`` that are to be learnt."""
    answers = [turn for turn in turns if turn.role == "gpt"]
    if len(spans) == len(answers):
        both = zip(spans, answers, strict=True)
        return [span for span, turn in both if turn.text and turn.learn]
    if not all(turn.learn for turn in answers):
        raise UserError(
            f"the chat template marks {len(spans)} stretches as generated and there are "
            f"{len(answers)} answers, so the one that is not to be learnt cannot be told. Give it "
            "{% generation %} marks around the text of each answer of the assistant."
        )
    return list(spans)


def _template(processor: Any) -> str:
    found = processor.chat_template
    if isinstance(found, Mapping):
        found = found.get("default")
    if not found:
        raise UserError(
            f"the {type(processor).__name__} of this model has no chat template "
            "(chat_template.jinja). Save the one that the model was tuned with in its folder. A "
            "template of this project (vicuna_v1, phi) serves models with a LlavaProcessor alone."
        )
    return str(found)


def _marked(processor: Any, messages: Sequence[Any]) -> list[Span]:
    """The spans between the template's marks, each with an end token that directly follows."""
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered: Any = render_jinja_template(
        conversations=[list(messages)],
        chat_template=_template(processor),
        return_assistant_tokens_mask=True,
        **processor.tokenizer.special_tokens_map,
    )
    texts, spans = rendered
    return [(start, _behind(processor, texts[0], end)) for start, end in spans[0]]


def _behind(processor: Any, text: str, end: int) -> int:
    """The place behind the end token that stands at ``end`` of ``text``, or ``end``."""
    ending = processor.tokenizer.eos_token
    return end + len(ending) if ending and text.startswith(ending, end) else end


def _difference(processor: Any, messages: Sequence[Any], turn: int, rendered: str) -> Span:
    """The span of what ``turn`` adds to the text at which the model is asked to answer."""
    asked = rendering(processor, messages[:turn], asking=True)
    answered = rendering(processor, messages[: turn + 1])
    if not (answered.startswith(asked) and rendered.startswith(answered)):
        raise UserError(
            "the chat template writes a turn otherwise once more turns follow, so the answers "
            "cannot be told from it. Give it {% generation %} marks around the assistant's text."
        )
    added = answered[len(asked) :]
    last = _ends(processor, added)
    return len(asked), len(asked) + (last or len(added))


def _ends(processor: Any, text: str) -> int:
    """The place behind the last special token of ``text``; 0 if text follows it, or there is
    none.
    """
    places = [text.rfind(t) + len(t) for t in special_tokens(processor) if t in text]
    last = max(places, default=0)
    return 0 if text[last:].strip() else last


def _signed(
    processor: Any, turns: Sequence[Turn], messages: Sequence[Any], rendered: str
) -> list[Span] | None:
    """Spans by a sign in the place of each answer's text; None if texts in the place of the signs
    do not give ``rendered``.

    The last answer begins where the model would, so that a thought written there is learnt too.
    """
    answers = [i for i, turn in enumerate(turns) if turn.role == "gpt"]
    signs = {i: f"\ue000{i}\ue001" for i in answers}
    asked = [
        {**m, "content": [{"type": "text", "text": signs[i]}]} if i in signs and turns[i].text
        else m
        for i, m in enumerate(messages)
    ]  # fmt: skip
    text, spans = rendering(processor, asked), []
    for i in answers:
        before, sign, behind = text.partition(signs[i])
        if not sign and turns[i].text:
            return None
        if not sign:
            spans.append((len(before), len(before)))
            continue
        said = turns[i].text
        said = said if rendered.startswith(before + said) else said.strip()
        text = before + said + behind
        end = len(before) + len(said)
        token = next((t for t in special_tokens(processor) if behind.startswith(t)), "")
        spans.append((len(before), end + len(token)))
    if text != rendered:
        return None
    if answers and answers[-1] == len(turns) - 1:
        prompt = rendering(processor, messages[: answers[-1]], asking=True)
        if rendered.startswith(prompt) and len(prompt) <= spans[-1][0]:
            spans[-1] = (len(prompt), spans[-1][1])
    return spans
