"""Documents and metrics of the demo's benchmarks, called by lmms-eval from the YAML files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset, Image
from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor

DemoDocument = Mapping[str, Any]
AnswerPair = tuple[str, str]
"""Answer and target: ``yes`` or ``no``; an answer may be something else."""

vqa_words = EvalAIAnswerProcessor()


def decode_images(documents: Dataset) -> Dataset:
    """The documents with their ``image`` column decoded to pictures; None stays None."""
    return documents.cast_column("image", Image())


def doc_to_visual(doc: DemoDocument) -> list[Any]:
    """The picture of the document as a list; empty for a text-only one."""
    return [] if doc["image"] is None else [doc["image"]]


def normalise(text: str) -> str:
    """Normalised as in VQA: lowercase, no punctuation, no articles, number words to ten as digits.

    A text of which nothing would be left, such as the answer ``a``, is only lowercased.
    """
    return vqa_words(text) or text.strip().lower()


def vqa_match(doc: DemoDocument, results: Sequence[str]) -> dict[str, float]:
    """1 if answer and target are equal after :func:`normalise`."""
    return {"exact_match": float(normalise(results[0]) == normalise(doc["answer"]))}


def text_match(doc: DemoDocument, results: Sequence[str]) -> dict[str, float]:
    """1 if the answer equals the target up to case and a final full stop."""
    return {"exact_match": float(_plain(results[0]) == _plain(doc["answer"]))}


def choice_match(doc: DemoDocument, results: Sequence[str]) -> dict[str, float]:
    """``exact_match`` of the letter, and ``flexible_match`` of letter or choice in a sentence."""
    answer, letter = results[0], doc["answer"].strip().upper()
    return {
        "exact_match": float(answer.strip(" .()").upper() == letter),
        "flexible_match": float(chosen_letter(answer, doc["question"]) == letter),
    }


def chosen_letter(answer: str, question: str) -> str | None:
    """The letter that an answer names: ``B``, ``(b)``, ``B. red``, ``The answer is B``.

    Without a letter, the one whose text in the question (after ``B.``) the answer equals; else
    None.
    """
    leading = re.match(r"\s*\(?([A-Da-d])\)?\s*(?:[.:,)]|$)", answer)
    named = leading or re.search(r"\b(?:answer|option|choice)\b\W+(?:is\W+)?\(?([A-D])\b", answer)
    if named:
        return named[1].upper()
    choices = re.findall(r"^\s*\(?([A-D])[.:)]\s*(.+)$", question, re.MULTILINE)
    letters = [letter for letter, text in choices if normalise(text) == normalise(answer)]
    return letters[0] if len(letters) == 1 else None


def yes_or_no(doc: DemoDocument, results: Sequence[str]) -> dict[str, Any]:
    """POPE's five figures: whether the answer is right, and the pair that the other four count."""
    words = re.findall(r"[a-z]+", results[0].lower())
    pair = (words[0] if words else "", doc["answer"].strip().lower())
    return {
        "accuracy": float(pair[0] == pair[1]),
        **dict.fromkeys(("precision", "recall", "f1", "yes_ratio"), pair),
    }


def precision(pairs: Sequence[AnswerPair]) -> float:
    """Share of the yes answers that are right; 0 if there is none."""
    return _share(pairs.count(("yes", "yes")), sum(said == "yes" for said, _ in pairs))


def recall(pairs: Sequence[AnswerPair]) -> float:
    """Share of the targets yes that were answered yes."""
    return _share(pairs.count(("yes", "yes")), sum(true == "yes" for _, true in pairs))


def f1(pairs: Sequence[AnswerPair]) -> float:
    """Harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN)."""
    positives = sum((said == "yes") + (true == "yes") for said, true in pairs)
    return _share(2 * pairs.count(("yes", "yes")), positives)


def yes_ratio(pairs: Sequence[AnswerPair]) -> float:
    """Share of yes among the answers; ideal is the share in the data."""
    return _share(sum(said == "yes" for said, _ in pairs), len(pairs))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _plain(text: str) -> str:
    return " ".join(text.split()).removesuffix(".").casefold()
