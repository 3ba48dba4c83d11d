"""The strict readers: what a reply says by the rule that a benchmark publishes, or lmms-eval's.

They are departed from only where that would score an accident, e.g. ``Snow`` as no; ``eval.rules``
says in words which task is read how.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from eval.readers import EMPTY, NEITHER, NO_OPTION, Options, Reading, contains_words, stands_alone

# --- letters -----------------------------------------------------------------------------------


def bare_or_dot(reply: str, options: Options) -> Reading:
    """Strict: a letter of either case alone, or a capital letter with a full stop: ``B.
    Mammal``.
    """
    text = reply.strip()
    found = re.match(r"([A-Z])\.(?![A-Za-z]\.)", text)
    letter = text.upper() if len(text) == 1 else found[1] if found else ""
    return _of(letter, options, reply)


def first_letter(reply: str, options: Options) -> Reading:
    """Strict: the first character, if it is a letter by itself and not the article ``A``."""
    text = reply.strip()
    word = re.match(r"\w[\w']|[Aa]\s+[a-z]", text)
    return _of("" if word else text[:1].upper(), options, reply)


def without_punctuation(reply: str, options: Options) -> Reading:
    """Strict: a reply that is a letter once punctuation is removed, or that begins ``B.``."""
    import string

    found = re.match(r"\s*([A-Z])\.(?![A-Za-z]\.)", reply)
    left = reply.strip().translate(str.maketrans("", "", string.punctuation)).upper()
    return _of(found[1] if found else left, options, reply)


def mmbench(reply: str, options: Options) -> Reading:
    """Strict: MMBench's own inference from letter or text, then lmms-eval's.

    Parts of words do not count.
    """
    from lmms_eval.tasks._task_utils.mcq_extract import extract_mcq_answer
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

    infer = MMBench_Evaluator()
    letter = infer.can_infer_option(reply)
    if letter == "A" and not stands_alone("A", reply):
        letter = False
    if not letter and (named := infer.can_infer_text(reply, dict(options))):
        letter = named if contains_words(options[named], reply) else False
    if not letter:
        letter = extract_mcq_answer(reply, choices=sorted(options))
        letter = letter if letter and stands_alone(letter, reply) else ""
    return _of(str(letter), options, reply)


def mmmu(reply: str, options: Options) -> Reading:
    """Strict: MMMU's own parser; where that would draw a random letter, the reply is unreadable."""
    from lmms_eval.tasks._task_utils.mmmu_mcq_utils import parse_mmmu_multi_choice_response

    try:
        letter = parse_mmmu_multi_choice_response(reply, _Letters(options), dict(options))
    except _DrawnError:
        letter = ""
    return _of(letter, options, reply)


class _DrawnError(Exception):
    pass


class _Letters(list[str]):
    """A list of letters that can be iterated but not drawn from at random."""

    def __getitem__(self, index: Any) -> Any:
        raise _DrawnError


def extracted_letter(reply: str, options: Options) -> Reading:
    """Strict: lmms-eval's extraction of a capital letter, if that stands by itself."""
    from lmms_eval.tasks._task_utils.mcq_extract import extract_mcq_answer

    letter = extract_mcq_answer(reply, choices=["A", "B", "C", "D"])
    return _of(letter if letter and stands_alone(letter, reply) else "", options, reply)


def stripped_letter(reply: str, options: Options) -> Reading:
    """Strict: a letter of either case, without outer blanks, full stops and brackets."""
    return _of(reply.strip(" .()").upper(), options, reply)


def _of(letter: str, options: Options, reply: str) -> Reading:
    if letter and letter in options:
        return Reading(letter)
    return NO_OPTION if re.search(r"\w", reply) else EMPTY


# --- yes and no --------------------------------------------------------------------------------


def pope(reply: str) -> Reading:
    """Strict: no if the first sentence holds a negation, else yes, as LLaVA's ``eval_pope.py``."""
    sentences = [s for s in re.split(r"[.!?\n]", reply) if re.search(r"\w", s)]
    if not sentences:
        return EMPTY
    return Reading("no" if re.search(r"\b(?:no|not)\b|n['’]t\b", sentences[0].lower()) else "yes")


def mme(reply: str) -> Reading:
    """Strict: yes or no as a whole word within the first four characters (MME accepts any
    letters).
    """
    text = reply.lower().strip().replace(".", "")
    if re.match(r"(?:y$|\W?yes\b)", text):
        return Reading("yes")
    if re.match(r"(?:n$|\W{0,2}(?:no|not|nope)\b)", text):
        return Reading("no")
    return NEITHER if re.search(r"\w", text) else EMPTY


def first_word(reply: str) -> Reading:
    """Strict: the first word."""
    words = re.findall(r"[a-z]+", reply.lower())
    return Reading(words[0]) if words[:1] in (["yes"], ["no"]) else NEITHER if words else EMPTY


# --- texts -------------------------------------------------------------------------------------


def anls(doc: Mapping[str, Any], reply: str) -> float:
    """DocVQA's ANLS: 1 - edit distance / longer length, for the nearest answer; 0 below 0.5.

    Case and repeated blanks are ignored in both texts and in the lengths; lmms-eval does not ignore
    them in the lengths, so that blanks raise the mark of a wrong reply.
    """
    from lmms_eval.api.metrics import levenshtein_distance

    said, best = " ".join(reply.lower().split()), 0.0
    for answer in doc["answers"]:
        true = " ".join(str(answer).lower().split())
        longest = max(len(said), len(true))
        if longest:
            best = max(best, 1 - levenshtein_distance(true, said) / longest)
    return best if best >= 0.5 else 0.0
