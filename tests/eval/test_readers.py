"""The forms in which models answer, and what each reader takes them for."""

from __future__ import annotations

import pytest

from eval.readers import contains_words, is_sentence, option, phrases, yes_no
from eval.strict import (  # fmt: skip
    anls,
    bare_or_dot,
    extracted_letter,
    first_letter,
    first_word,
    mmbench,
    mme,
    mmmu,
    pope,
    without_punctuation,
)

CHOICES = {"A": "cat", "B": "dog", "C": "dark blue", "D": "blue"}


@pytest.mark.parametrize(
    ("said", "replies"),
    [
        ("B", ["B", "b", "B.", "b.", " B ", "(B)", "(b)", "[B]", "**B**", "B)", "B:", "option b"]),
        ("B", ["B. dog", "b. dog", "B) dog", "(B) dog", "B: dog", "B - dog", "B, it barks"]),
        ("B", ["dog", "Dog.", "a dog", "A dog", "The dog", '"dog"', "DOG"]),
        ("B", ["The answer is B", "The correct answer is (b).", "Answer: B", "I choose B.",
               "The answer is B. The others, A and C, are wrong.", "The answer is dog."]),
        ("B", ["It is a dog", "It's a dog.", "This is a dog in the image.", "I think it is B",
               "The picture shows a dog", "The animal on the left is a dog."]),
        ("B", ["\u7b54\u6848\u662fB", "\uff08B\uff09", "\u9009B\u3002", "\uff22", "\uff42."]),
        ("B", ["<answer>B</answer>", "$\\boxed{B}$", "\\boxed{\\text{dog}}"]),
        ("A", ["A", "a", "A.", "A cat", "a cat", "A because of its ears"]),
        ("C", ["dark blue", "It is dark blue."]),
        ("D", ["blue", "It is blue."]),
        (None, ["catfish", "hotdog", "A catfish", "Both", "E", "blueish", "B.C.", "Dave"]),
        (None, ["", " ", "?", "...", "A or B", "A, B", "cat and dog", "A and B"]),
        (None, ["not a dog", "It is not a dog", "There is no dog", "It isn't B"]),
    ],
)  # fmt: skip
def test_an_option_is_read_in_every_form_and_no_other_is(
    said: str | None, replies: list[str]
) -> None:
    assert {reply: option(reply, CHOICES).said for reply in replies} == dict.fromkeys(replies, said)


def test_a_number_is_no_part_of_another() -> None:
    choices = {"A": "3", "B": "30", "C": "2.5", "D": "5"}
    said = {
        r: option(r, choices).said for r in ("three", "It is 30.", "2.5", "3.5", "35", "It is 5")
    }
    assert said == {"three": "A", "It is 30.": "B", "2.5": "C", "3.5": None, "35": None,
                    "It is 5": "D"}  # fmt: skip


@pytest.mark.parametrize(
    ("said", "replies"),
    [
        ("yes", ["Yes", "yes.", "YES!", "(Yes)", "y", "Yes, there is a dog.", "The answer is yes",
                 "There is a dog", "There is a dog in the image.", "It is.", "Yes it is",
                 "\\boxed{Yes}", "Of course.", "Yeah", "True.", "**Yes**",
                 "There are dogs in the picture."]),
        ("no", ["No", "no.", "n", "No, there is not.", "The answer is no.", "There is no dog",
                "There isn't a dog", "The dog is not visible in the image.", "It is not",
                "<answer>no</answer>", "Of course not",
                "No dog is visible.", "Nope.", "False", "Not really.", "There aren't any dogs."]),
        (None, ["", "?", "Snow", "north", "noon", "Another", "None", "Yesterday", "a dog",
                "Unknown", "I don't know", "Yes or no", "It is a cat", "There is a no parking sign",
                "I cannot tell", "perhaps", "yes/no", "Yes and no", "Trueness", "Yesno"]),
    ],
)  # fmt: skip
def test_yes_and_no_are_read_in_every_form(said: str | None, replies: list[str]) -> None:
    question = "Is there a dog in the image?"
    assert {r: yes_no(r, question).said for r in replies} == dict.fromkeys(replies, said)


@pytest.mark.parametrize(
    ("reply", "among"),
    [
        ("Paris", "Paris"), ("Paris.", "Paris"), ("(Paris)", "Paris"), ('"Paris"', "Paris"),
        ("It is Paris.", "Paris"), ("The answer is Paris", "Paris"), ("It's a dog.", "dog"),
        ("The colour of the car is red.", "red"), ("It is red in the image.", "red"),
        ("Yes, it is", "yes"), ("two", "2"), ("There are two dogs", "two dogs"),
        ("1,000", "1000"), ("$1,200", "1200"), ("The sign says stop", "stop"),
        ("<answer>red</answer>", "red"), ("$\\boxed{12}$", "12"),
    ],
)  # fmt: skip
def test_a_phrase_is_taken_out_of_what_stands_around_it(reply: str, among: str) -> None:
    assert among in phrases(reply)


def test_a_phrase_is_not_cut_out_of_a_word() -> None:
    assert phrases("catfish") == ["catfish"]
    assert "dog" not in phrases("It is not a dog") and "12" not in phrases("12.5")
    assert contains_words("cat", "The cat sat") and not contains_words("cat", "The catfish")


def test_a_sentence_is_told_from_a_phrase() -> None:
    assert all(map(is_sentence, ["It is red.", "The answer is 4", "Yes, it is", "There is a dog"]))
    assert not any(map(is_sentence, ["red", "a red car", "yes", "14", "on the left", "no parking"]))


# --- strict rules -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("yes", "yes"), ("Yes.", "yes"), ("Yes, there is a dog.", "yes"), ("a dog", "yes"),
        ("Snow", "yes"), ("There is a dog. There is no cat.", "yes"),
        ("No", "no"), ("No.", "no"), ("NO!", "no"), ("There is no dog", "no"),
        ("It is not there, yes", "no"), ("There isn't a dog", "no"),
        ("?????", None), ("", None), (" . ", None),
    ],
)  # fmt: skip
def test_pope_reads_the_first_sentence_as_llava_does(reply: str, said: str | None) -> None:
    assert pope(reply).said == said


def test_mme_takes_whole_words() -> None:
    yes, no = ["Yes", "yes it is", "y", "Yes."], ["no", "No, it is", "n", "not really", "(no)"]
    neither = [
        "Snow",
        "north",
        "noon",
        "Another",
        "None",
        "Yesterday",
        "The answer is yes",
        "",
        "?",
    ]
    said = {reply: mme(reply).said for reply in [*yes, *no, *neither]}
    assert said == {
        **dict.fromkeys(yes, "yes"), **dict.fromkeys(no, "no"), **dict.fromkeys(neither)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "letter", "not_read"),
    [
        (bare_or_dot, ["B", "b", "B.", "B. dog"], ["(B)", "b.", "B)", "The answer is B", "B.C."]),
        (first_letter, ["B", "b", "B.", "B. dog", "B) dog"], ["(B)", "Both", "dog", "Blue"]),
        (without_punctuation, ["B", "b", "(B)", "B.", "B. dog"], ["B dog", "2", "Both", ""]),
        (extracted_letter, ["B", "B.", "(B)", "The answer is B"], ["Both", "b", "ABBA", "dog", ""]),
        (mmbench, ["B", "(B)", "B. dog", "dog", "It is a dog"], ["b", "Both", "hotdog", "", "E"]),
        (mmmu, ["B", "(B)", "B. dog", "The answer is B"], ["b", "dog", "", "?"]),
    ],
)  # fmt: skip
def test_strict_letters(rule: object, letter: list[str], not_read: list[str]) -> None:
    said = {reply: rule(reply, CHOICES).said for reply in [*letter, *not_read]}  # type: ignore[operator]
    assert said == {**dict.fromkeys(letter, "B"), **dict.fromkeys(not_read)}


def test_an_article_is_no_option() -> None:
    assert first_letter("A car", CHOICES).said is None
    assert extracted_letter("A car", CHOICES).said is None
    assert mmbench("A dog", CHOICES).said == "B" and mmbench("A cat", CHOICES).said == "A"
    assert first_word("A yes").said is None


def test_blanks_do_not_raise_anls() -> None:
    doc = {"answers": ["dog"]}
    assert anls(doc, "c          at") == 0.0
    assert anls(doc, "  DOG ") == 1.0 and anls({"answers": ["two  words"]}, "two words") == 1.0
    assert anls({"answers": ["John Smith"]}, "Jon Smith") == pytest.approx(0.9)
    assert anls({"answers": ["12"]}, "13") == 0.5 and anls(doc, "") == 0.0
