"""Read a reply: an option's letter, yes or no, a word; or the reason why it cannot be read.

The strict readers follow the rule that a benchmark publishes (``eval.rules`` says which). The
lenient ones accept every usual form of the same answer, and no other answer: ``b``, ``(B)``, ``B:
wood``, ``wood``, ``The answer is B``, ``It is wood``, but not ``plywood`` for ``wood``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

Options = Mapping[str, str]
"""Letter -> text of the choice."""


@dataclass(frozen=True)
class Reading:
    """What the reply says, e.g. ``B`` or ``yes``.

    None: unreadable, and ``why`` is the kind of reason.
    """

    said: str | None
    why: str = ""


EMPTY = Reading(None, "empty")
NO_OPTION = Reading(None, "no option")
SEVERAL = Reading(None, "several options")
NEGATED = Reading(None, "negated")
NEITHER = Reading(None, "neither yes nor no")
UNSURE = Reading(None, "unsure")
SENTENCE = Reading(None, "sentence")

NUMBERS = {
    word: str(i)
    for i, word in enumerate("zero one two three four five six seven eight nine ten".split())
}
_SUBJECT = r"(?:it|this|that|there|he|she|they|these|those|i|we)"
_BE = r"(?:'s|'re|\s+(?:is|are|was|were|looks?\s+like|appears?\s+to\s+be|seems?\s+to\s+be))"
FRAMES = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        r"^(?:so\W+|therefore\W+|thus\W+)?(?:the\s+|my\s+)?(?:correct\s+|best\s+|right\s+|final\s+"
        r"|short\s+)?(?:answer|option|choice)(?:\s+(?:to|for)\s+[^.:]*?)?(?:\s+(?:is|would\s+be)\b"
        r"|\s*[:=])\s*:?\s*(?P<rest>.+)$",
        r"^i\s+(?:would\s+)?(?:think|believe|choose|pick|select|guess)(?:\s+that)?\s+(?P<rest>.+)$",
        rf"^{_SUBJECT}{_BE}\s+(?P<rest>.+)$",
        r"^(?:it|this|that|the\s+\w+)\s+(?:says|reads|shows)\s+(?P<rest>.+)$",
        r"^(?:i|we)\s+(?:can\s+)?see\s+(?P<rest>.+)$",
        r"^(?:the|a|an|his|her|its|their)\s+(?:\S+\s+){1,6}?(?:is|are|was|were)\s+(?P<rest>.+)$",
        r"^(?:\u6b63\u786e)?\u7b54\u6848(?:\u662f|\u4e3a)?\s*:?\s*(?P<rest>.+)$",
        r"^(?:\u6211?\u9009\u62e9?|[\u5b83\u8fd9]?\u662f)\s*:?\s*(?P<rest>.+)$",
    )
)
"""Sentences that wrap an answer, which is the group ``rest``."""
_PLACE = re.compile(
    r"\s+(?:in|on|of|from)\s+(?:the|this)\s+(?:image|picture|photo|photograph|chart|document)$",
    re.I,
)
_CLAUSE = re.compile(r"(?:[.!?;,]\s|\s(?:because|since|which)\s|\n).*$", re.DOTALL)
_QUOTES = " \t\r\n\"'`*"
_ENDS = _QUOTES + ".,;:!?"
_WIDE = {at + i: at - 0xFEE0 + i for at in (0xFF10, 0xFF21, 0xFF41) for i in range(26)}
"""Full-width digits and letters, as they are typed in Chinese."""
_ASCII = _WIDE | str.maketrans(
    "\uff1a\uff0e\uff0c\u3002\u3001\uff08\uff09\uff01\uff1f\uff1b\u2018\u2019\u201c\u201d",
    ":.,.,()!?;''\"\"",
)
_ARTICLE = re.compile(r"^(?:a|an|the)\s+", re.IGNORECASE)
_DECLINED = re.compile(
    r"\b(?:(?:do|does)\s*n[o']t\s+know|do\s+not\s+know|cannot|can'?t|not\s+sure|unsure|unclear"
    r"|unable|impossible\s+to|hard\s+to|maybe|perhaps|possibly|might|yes\s+(?:or|and)\s+no)\b",
    re.IGNORECASE,
)


# --- letters ----------------------------------------------------------------------------------


def stands_alone(letter: str, reply: str) -> bool:
    """Whether the letter occurs by itself: not within a word, nor as the article ``A``."""
    found = re.finditer(rf"(?<![A-Za-z0-9]){re.escape(letter)}(?![A-Za-z0-9]|'\w)", reply)
    words = r"\s+(?!(?:or|and|is|as|because|since)\b)[a-z]"
    article = re.compile(words) if letter in "AI" else None
    return any(not (article and article.match(reply, m.end())) for m in found)


def option(reply: str, options: Options) -> Reading:
    """Lenient: the option that a reply names by its letter, its text, or both."""
    text = tidy(reply).strip(_QUOTES)
    if not _plain(text):
        return EMPTY
    for part in (text, *_rests(text)):
        if _LIST.match(part):
            return SEVERAL
        if letter := _bare(part, options) or _equal(part, options) or _leading(part, options):
            return Reading(letter)
    return _within(text, options)


_LIST = re.compile(r"\W*[A-Z]\W*(?:[,/&]|\b(?:and|or)\b)\s*\(?[A-Z](?![\w'])")


def _bare(text: str, options: Options) -> str | None:
    """The letter, if the text is nothing else: ``B``, ``b.``, ``(B)``, ``[B]``, ``**B**``, ``option
    B``.
    """
    found = re.fullmatch(r"\W*(?:(?:option|choice)\s+)?\W*([A-Za-z])\W*", text, re.IGNORECASE)
    return found[1].upper() if found and found[1].upper() in options else None


def _leading(text: str, options: Options) -> str | None:
    """The letter at the start: ``(b) wood``, ``B. wood``, ``B) wood``, ``B: wood``, ``Option B,
    wood``.
    """
    closed = r"[\[(]\s*(?P<a>[A-Za-z])\s*[\])](?=\W)"
    opened = r"(?P<b>[A-Za-z])[\"'*]*(?:[.](?![A-Za-z][.])|[:),]|\s+-\s)"
    found = re.match(rf"\W*?(?:(?:option|choice)\s+)?(?:{closed}|{opened})", text, re.IGNORECASE)
    letter = (found["a"] or found["b"]).upper() if found else ""
    return letter if letter in options else None


def _equal(text: str, options: Options) -> str | None:
    """The only option whose text equals the reply."""
    plain = _plain(_trimmed(text))
    found = [letter for letter, choice in options.items() if plain and _plain(choice) == plain]
    return found[0] if len(found) == 1 else None


def _within(text: str, options: Options) -> Reading:
    """The only option that a sentence names: by its capital letter, or its text as whole words."""
    if re.search(r"\b(?:not|no|none|neither|never|nor)\b|n't\b", text, re.IGNORECASE):
        return NEGATED
    letters = {letter for letter in options if stands_alone(letter, text)}
    texts = _named(text, options)
    found = letters | texts
    if len(found) == 1:
        return Reading(found.pop())
    return SEVERAL if found else NO_OPTION


def _named(text: str, options: Options) -> set[str]:
    """Options whose text occurs in the reply as whole words.

    Inside a longer option's text, only that one.
    """
    rest, found = _plain(text), set()
    for letter, choice in sorted(options.items(), key=lambda item: -len(_plain(item[1]))):
        pattern = _as_words(_plain(choice))
        if pattern and pattern.search(rest):
            found.add(letter)
            rest = pattern.sub(" \0 ", rest)
    return found


def _as_words(plain: str) -> re.Pattern[str] | None:
    if not plain:
        return None
    before = r"(?<![A-Za-z0-9\-])(?<!\d[.,])" if plain[0].isascii() else ""
    after = r"(?![A-Za-z0-9\-%])(?![.,]\d)" if plain[-1].isascii() else ""
    return re.compile(f"{before}{re.escape(plain)}{after}")


# --- yes and no -------------------------------------------------------------------------------


def yes_no(reply: str, question: str = "") -> Reading:
    """Lenient: ``Yes.``, ``n``, ``The answer is no``, ``There is no dog``.

    A sentence without yes or no counts only if it repeats what the question asks for.
    """
    text = tidy(reply).strip(_ENDS)
    if not re.search(r"\w", text):
        return EMPTY
    for part in (text, *_rests(text)):
        if first := _FIRST.match(part):
            return Reading({"y": "yes", "n": "no"}[first[1][0].lower()])
        if meant := _MEANT.get(part.strip(_ENDS).lower()):
            return Reading(meant)
    return UNSURE if _DECLINED.search(text) else _stated(text, question)


_FIRST = re.compile(
    r"\W*(yes(?!\s*(?:/|\bor\b|\band\b)\s*no\b)|yeah|yep|yup|nope|no|y(?=\W*$)|n(?=\W*$))(?![\w-])",
    re.IGNORECASE,
)
_MEANT = {
    **dict.fromkeys(("true", "correct", "indeed", "sure", "of course"), "yes"),
    **dict.fromkeys(("absolutely", "definitely", "certainly"), "yes"),
    **dict.fromkeys(("false", "incorrect", "not really", "not at all", "of course not"), "no"),
    **dict.fromkeys(("absolutely not", "definitely not", "certainly not"), "no"),
}
"""Replies that are no more than these words."""
_VERB = r"\b(?:is|are|was|were|has|have|had|does|do|did|can|could|contains?|shows?)\b"
_STOP = frozenset(
    "a an the is are was were be there this that it in on of to at do does did has have had can "
    "could yes no not please answer or any image picture photo photograph shown visible present "
    "see i we they he she and".split()
)


def _stated(text: str, question: str) -> Reading:
    """For a sentence: no if its verb is negated, yes if it is not."""
    sentence = re.split(r"[.!?\n]", text)[0].lower()
    begins = rf"(?:{_SUBJECT}|the|a|an|no|none|neither|nothing|nobody)\b"
    if not re.match(begins, sentence) or not re.search(rf"{_VERB}|n't\b|'s\b|'re\b", sentence):
        return NEITHER
    asked, said = _content(question), _content(sentence)
    if said and not asked <= said:
        return NEITHER
    denied = rf"{_VERB}\s+(?:\w+ly\s+)?(?:not|no|never|none)\b|n't\b|(?:'s|'re)\s+(?:not|no)\b"
    starts = r"(?:no|none|neither|nothing|nobody)\b"
    negated = re.match(starts, sentence) or re.search(denied, sentence)
    return Reading("no" if negated else "yes")


def _content(text: str) -> set[str]:
    words = set(re.findall(r"[^\W_]+", re.sub(r"n't\b|'s\b|'re\b", "", text.lower()))) - _STOP
    return {NUMBERS.get(word, word if len(word) < 4 else word.removesuffix("s")) for word in words}


# --- words and numbers ------------------------------------------------------------------------


def is_sentence(reply: str) -> bool:
    """Whether a reply to a question for a word or phrase is a whole sentence."""
    text = tidy(reply).strip(_QUOTES)
    framed = next(_rests(text), None) is not None
    return framed or re.match(r"(?:yes|no)\b[.,:;!]+\s*\w", text, re.IGNORECASE) is not None


def phrases(reply: str) -> list[str]:
    """Lenient: the words or phrases that a reply may stand for, its own wording first.

    Without quotes, brackets and a final full stop; without the sentence around it; without article,
    thousands separator and currency sign; number words as digits.
    """
    text = tidy(reply).strip()
    found = [reply.strip(), _trimmed(text), _unwrapped(_trimmed(text))]
    if word := re.match(r"\W*(yes|no)\b[.,:;!]+\s*\w", text, re.IGNORECASE):
        found.append(word[1].lower())
    for rest in _rests(text.strip(_QUOTES)):
        found += [_trimmed(rest), _trimmed(_PLACE.sub("", _CLAUSE.sub("", _trimmed(rest))))]
    found += [_ARTICLE.sub("", phrase) for phrase in found[1:]]
    found += [number for phrase in found[1:] if (number := _number(phrase))]
    return list(dict.fromkeys(phrase for phrase in found if phrase))


def same_phrase(phrase: str, target: str) -> bool:
    """Whether two phrases are equal up to case, articles, outer punctuation and number words."""
    return bool(_plain(phrase)) and _plain(phrase) == _plain(target)


def contains_words(target: str, reply: str) -> bool:
    """Whether ``target`` occurs in the reply as whole words."""
    pattern = _as_words(_plain(target))
    return pattern is not None and pattern.search(_plain(reply)) is not None


def _rests(text: str) -> Iterator[str]:
    """The answers inside the sentences of ``FRAMES``, from the outside in."""
    for _ in range(3):
        found = next((m for frame in FRAMES if (m := frame.match(text))), None)
        if found is None:
            return
        text = found["rest"].strip(_QUOTES)
        yield text


def _number(phrase: str) -> str | None:
    if word := NUMBERS.get(phrase.lower()):
        return word
    plain = re.fullmatch(
        r"[$\u20ac\u00a3]?\s*(-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|-?\d+(?:\.\d+)?)", phrase
    )
    return plain[1].replace(",", "") if plain else None


_MARKUP = re.compile(r"</?[A-Za-z_]+>|\$?\\(?:boxed|text|mathrm)\{(?P<inside>[^{}]*)\}\$?")
"""Tags around an answer, ``<answer>B</answer>``, and those of a formula, ``$\\boxed{B}$``."""


def tidy(text: str) -> str:
    """``text`` without markup, with wide letters, wide and curly punctuation as ASCII, and single
    blanks.
    """
    plain = text.translate(_ASCII)
    for _ in range(2):  # \\boxed{\\text{B}}
        plain = _MARKUP.sub(lambda found: found["inside"] or "", plain)
    return re.sub(r"[ \t]+", " ", plain)


def _trimmed(text: str) -> str:
    return text.strip(_QUOTES).rstrip(_ENDS)


def _unwrapped(text: str) -> str:
    found = re.fullmatch(r"[(\[{]\s*(.*?)\s*[)\]}]", text, re.DOTALL)
    return found[1] if found else text


def _plain(text: str) -> str:
    """Lower case, single blanks, without outer punctuation and articles; number words as digits."""
    words: Sequence[str] = _unwrapped(_trimmed(tidy(text))).lower().split()
    kept = [NUMBERS.get(word, word) for word in words if word not in ("a", "an", "the")]
    return " ".join(kept or words)
