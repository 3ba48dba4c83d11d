"""Rules for every task: how its replies are read and scored, strictly and leniently.

The strict rule is the one that the benchmark publishes, or lmms-eval's if it publishes none. It
deviates only where that rule would score an accident, e.g. read ``Snow`` as no; ``said`` states it.
A task that is not in ``RULES`` is scored by its own mark, and its replies are not read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.likelihood import Candidates, one_of, short_answer
from eval.parts import number
from eval.readers import (
    EMPTY,
    SENTENCE,
    Options,
    Reading,
    contains_words,
    is_sentence,
    option,
    phrases,
    same_phrase,
    yes_no,
)
from eval.strict import (
    anls,
    bare_or_dot,
    extracted_letter,
    first_letter,
    first_word,
    mmbench,
    mme,
    mmmu,
    pope,
    stripped_letter,
    without_punctuation,
)

Doc = Mapping[str, Any]
ScoreOtherReply = Callable[[str], float | None]
"""The task's own mark, 0 to 1, for another reply to the same document."""


@dataclass(frozen=True)
class ReplyRule:
    """How the replies to one task are read and scored."""

    said: str
    """The strict rule in words: ``scoring`` in the benchmark's protocol."""
    strict: Callable[[Doc, str], Reading]
    """Document and reply -> strict reading."""
    mark: Callable[[Doc, str, Reading, float | None], float | None]
    """Document, reply, reading, and the task's own mark -> share of the sample that is right; None
    if the task has no mark for it."""
    lenient: Callable[[Doc, str, float, ScoreOtherReply], tuple[Reading, float]] | None = None
    """Document, reply, strict mark, the task's mark for other replies -> lenient reading and
    mark."""
    true: Callable[[Doc], str] | None = None
    """Document -> ``yes`` or ``no``, the target for figures that count positives, like F1."""
    own: Callable[[Any], float | None] = number
    """What the task logs for a metric -> its own mark."""
    sums: Mapping[str, str] = field(default_factory=dict)
    """lmms-eval's metric -> how its samples add up (``eval.parts``), if not as the mean."""
    right: Callable[[Doc, Callable[[], Any]], Candidates | None] = lambda doc, target: None
    """Document, and what the task's target is of -> the right answer with its alternatives, whose
    likelihood is taken; None: no short text."""


# --- documents --------------------------------------------------------------------------------


def _listed(texts: Any) -> dict[str, str]:
    return {chr(ord("A") + i): str(text) for i, text in enumerate(texts)}


def _lettered(doc: Doc) -> dict[str, str]:
    """MMBench: the columns A to D that hold an option.

    A missing one is empty or the text ``nan``.
    """
    found = {letter: doc.get(letter) for letter in "ABCD"}
    kept = {k: str(v).strip() for k, v in found.items() if v is not None and v == v}
    return {k: v for k, v in kept.items() if v and v != "nan"}


def _in_question(doc: Doc) -> dict[str, str]:
    """Options from lines ``A. text`` of the question.

    The letters A to D without text if there are none.
    """
    lines = re.findall(r"^\s*\(?([A-Z])[.):]\s*(.+?)\s*$", doc["question"], re.MULTILINE)
    return dict(lines) or dict.fromkeys("ABCD", "")


def _mmmu_options(doc: Doc) -> dict[str, str]:
    import ast

    return _listed(ast.literal_eval(doc["options"]))


def _mmmu_answers(doc: Doc) -> Any:
    """The accepted answers to an open question: one, or a list written as a text."""
    import ast

    said = str(doc["answer"])
    return ast.literal_eval(said) if re.fullmatch(r"\[.*\]", said, re.DOTALL) else said


# --- kinds of rules -----------------------------------------------------------------------------


def choice(
    said: str,
    options: Callable[[Doc], Options],
    target: Callable[[Doc], str],
    strict: Callable[[str, Options], Reading],
    *,
    own_mark: bool = False,
    offered: Callable[[Doc], Sequence[str]] | None = None,
) -> ReplyRule:
    """A rule for questions with lettered options. ``own_mark``: the strict mark is the task's own;
    ``offered``: the letters that a document offers, if they are not those of ``options``.

    ``said`` is the rule in words; ``options`` and ``target`` give a document's options and right
    letter; ``strict`` is the strict reader.
    """

    def lenient(
        doc: Doc, reply: str, right: float, again: ScoreOtherReply
    ) -> tuple[Reading, float]:
        found = option(reply, options(doc))
        return found, float(found.said == target(doc))

    def mark(doc: Doc, reply: str, found: Reading, own: float | None) -> float | None:
        return own if own_mark else float(found.said == target(doc))

    return ReplyRule(
        said,
        lambda doc, reply: strict(reply, options(doc)),
        mark,
        lenient,
        right=lambda doc, _: one_of(target(doc), (offered or (lambda d: [*options(d)]))(doc)),
    )


def yes_or_no(
    said: str,
    strict: Callable[[str], Reading],
    sums: Mapping[str, str] | None = None,
    *,
    own_mark: bool = False,
) -> ReplyRule:
    """A rule for yes/no questions.

    Arguments as for :func:`choice`, ``sums`` as in :class:`ReplyRule`.
    """

    def true(doc: Doc) -> str:
        return str(doc["answer"]).strip().strip(".").lower()

    def lenient(
        doc: Doc, reply: str, right: float, again: ScoreOtherReply
    ) -> tuple[Reading, float]:
        found = yes_no(reply, str(doc["question"]))
        return found, float(found.said == true(doc))

    def mark(doc: Doc, reply: str, found: Reading, own: float | None) -> float | None:
        return own if own_mark else float(found.said == true(doc))

    return ReplyRule(
        said,
        lambda doc, reply: strict(reply),
        mark,
        lenient,
        true,
        sums=sums or {},
        right=lambda doc, _: one_of(true(doc), ("yes", "no"), cases=True),
    )


def short(said: str, score: Callable[[Doc, str], float] | None = None) -> ReplyRule:
    """A rule for a word, phrase or number, compared by the task, or by ``score`` (document,
    reply).
    """

    def strict(doc: Doc, reply: str) -> Reading:
        if not reply.strip():
            return EMPTY
        return SENTENCE if is_sentence(reply) else Reading(reply.strip())

    def mark(doc: Doc, reply: str, found: Reading, own: float | None) -> float | None:
        if own is None:
            return None
        if not reply.strip():
            return 0.0  # an article is a true answer that some compare as nothing
        return score(doc, reply) if score else own

    def lenient(
        doc: Doc, reply: str, right: float, again: ScoreOtherReply
    ) -> tuple[Reading, float]:
        if not reply.strip():
            return EMPTY, 0.0
        best = Reading(reply.strip()), right
        for phrase in phrases(reply) if right < 1.0 else []:
            found = (score(doc, phrase) if score else again(phrase)) or 0.0
            if found > best[1]:
                best = Reading(phrase), found
        if best[0].said == reply.strip() and right < 1.0 and is_sentence(reply):
            return Reading(phrases(reply)[-1]), right
        return best

    return ReplyRule(said, strict, mark, lenient, right=lambda _, target: short_answer(target()))


def either(
    said: str,
    is_choice: Callable[[Doc], bool],
    letters: ReplyRule,
    words: ReplyRule,
    own: Callable[[Any], float | None] = number,
) -> ReplyRule:
    """A rule for tasks with both kinds of questions: ``letters`` where ``is_choice``, else
    ``words``.
    """

    def of(doc: Doc) -> ReplyRule:
        return letters if is_choice(doc) else words

    def lenient(
        doc: Doc, reply: str, right: float, again: ScoreOtherReply
    ) -> tuple[Reading, float]:
        rule = of(doc)
        assert rule.lenient is not None
        return rule.lenient(doc, reply, right, again)

    return ReplyRule(
        said,
        lambda doc, reply: of(doc).strict(doc, reply),
        lambda doc, reply, found, own: of(doc).mark(doc, reply, found, own),
        lenient,
        own=own,
        right=lambda doc, target: of(doc).right(doc, target),
    )


def _share_of_ten(logged: Any) -> float | None:
    """LLaVA-W: the judge's mark of the model's answer, logged after that of the reference
    answer.
    """
    marked = isinstance(logged, Mapping) and "scores" in logged
    return float(logged["scores"][1]) / 10 if marked else None


def judged(said: str, own: Callable[[Any], float | None] = number) -> ReplyRule:
    """A rule for replies that a judge scores: any text is readable."""
    return ReplyRule(
        said,
        lambda doc, reply: Reading(reply.strip()) if reply.strip() else EMPTY,
        lambda doc, reply, found, own: own,
        own=own,
    )


# --- MMMU ---------------------------------------------------------------------------------------


def _mmmu() -> ReplyRule:
    def own(logged: Any) -> float | None:
        from lmms_eval.tasks.mmmu.utils import evaluate_mmmu

        marked = isinstance(logged, Mapping) and "parsed_pred" in logged
        return float(evaluate_mmmu([logged])[1]["acc"]) if marked else None

    letters = choice("", _mmmu_options, lambda doc: str(doc["answer"]), mmmu)
    guessing = ReplyRule(
        "",
        letters.strict,
        lambda doc, reply, found, own: letters.mark(doc, reply, found, own) if found.said else own,
        letters.lenient,
        right=letters.right,
    )

    def lenient(
        doc: Doc, reply: str, right: float, again: ScoreOtherReply
    ) -> tuple[Reading, float]:
        target, said = (
            str(doc["answer"]),
            [p for p in phrases(reply) if same_phrase(p, str(doc["answer"]))],
        )
        if said or (right and contains_words(target, reply)):
            return Reading(said[0] if said else target), 1.0
        return (Reading(phrases(reply)[-1]), 0.0) if reply.strip() else (EMPTY, 0.0)

    words = ReplyRule(
        "",
        lambda doc, reply: Reading(reply.strip()) if re.search(r"\w", reply) else EMPTY,
        lambda doc, reply, found, own: own if found.said else 0.0,
        lenient,
        right=lambda doc, _: short_answer(_mmmu_answers(doc)),
    )
    return either(
        "MMMU's parsers of letters and open answers; unreadable choices are guessed by document",
        lambda doc: doc["question_type"] == "multiple-choice",
        guessing,
        words,
        own,
    )


# --- the table ----------------------------------------------------------------------------------

_VQA = short("VQA accuracy over ten answers")
_DEMO = short("exact match after VQA normalisation")
_POPE = {
    "pope_f1_score": "f1", "pope_precision": "precision", "pope_recall": "recall",
    "pope_yes_ratio": "yes_share",
}  # fmt: skip
_PRESENCE = {"f1": "f1", "precision": "precision", "recall": "recall", "yes_ratio": "yes_share"}
_STATIC = choice(
    "circular and static without a judge; letter or text of the option in whole words",
    _lettered,
    lambda doc: str(doc["answer"]),
    mmbench,
)
RULES: Mapping[str, ReplyRule] = {
    "vqav2_val": _VQA,
    "vizwiz_vqa_val": _VQA,
    "textvqa_val": _VQA,
    "gqa": short("exact match, case and punctuation aside"),
    "chartqa": short("relaxed accuracy: numbers within 5 %, years too; else exact, case aside"),
    "docvqa_val": short("ANLS, case and runs of blanks aside", anls),
    "infovqa_val": short("ANLS, case and runs of blanks aside", anls),
    "pope": yes_or_no(
        "F1 of yes over all questions; read as LLaVA's eval_pope.py: of the first sentence a "
        "negation is no, all else yes; a reply without a word is neither",
        pope,
        _POPE,
    ),
    "mme": yes_or_no(
        "accuracy and accuracy of pairs summed over categories; yes or no as a whole word within "
        "the first four characters",
        mme,
    ),
    "scienceqa_img": choice(
        "bare letter, or capital letter with full stop",
        lambda doc: _listed(doc["choices"]),
        lambda doc: "ABCDEFGH"[int(doc["answer"])],
        bare_or_dot,
    ),
    "ai2d": choice(
        "letter, case and punctuation aside, or capital letter with full stop",
        lambda doc: _listed(doc["options"]),
        lambda doc: "ABCDEFGH"[int(doc["answer"])],
        without_punctuation,
    ),
    "seedbench": choice(
        "first character, if a letter by itself",
        lambda doc: _listed(doc[f"choice_{letter}"] for letter in "abcd"),
        lambda doc: str(doc["answer"]).strip().upper(),
        first_letter,
    ),
    "mmbench_en_dev_static": _STATIC,
    "mmbench_cn_dev": _STATIC,
    "realworldqa": either(
        "capital letter by itself, or exact match, case and a final stop aside",
        lambda doc: str(doc["answer"]).strip().upper() in ("A", "B", "C", "D"),
        choice("", _in_question, lambda doc: str(doc["answer"]).strip().upper(), extracted_letter),
        short(""),
    ),
    "mmmu_val": _mmmu(),
    "mmvet": judged("judged"),
    "llava_in_the_wild": judged("judged relative to the reference answer", _share_of_ten),
    "demo_attributes": _DEMO,
    "demo_charts": _DEMO,
    "demo_counting": _DEMO,
    "demo_spatial": _DEMO,
    "demo_reading": short("exact match, case aside"),
    "demo_choice": choice(
        "exact letter; flexible: letter or text of the choice",
        _in_question,
        lambda doc: str(doc["answer"]).strip().upper(),
        stripped_letter,
        own_mark=True,
        offered=lambda doc: [x for x in "ABCD" if re.search(rf"\b{x}\b", doc["question"])],
    ),
    "demo_presence": yes_or_no(
        "POPE with yes as the positive class", first_word, _PRESENCE, own_mark=True
    ),
}
"""lmms-eval's name of a task -> its rule. ``parts`` of the benchmark says how samples add up."""
