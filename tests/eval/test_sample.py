"""The documents that are asked: fixed by ids and seed, whole units, balanced where told."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from coincide.schema import UserError
from eval.sample import Subsample, chosen_documents, columns

POPE = [{"category": ("random", "popular", "adversarial")[i // 300]} for i in range(900)]
MME = [
    {"category": f"c{i // 40}", "question_id": f"p{i // 2}", "answer": ("Yes", "No")[i % 2]}
    for i in range(160)
]
ROTATIONS = [{"index": turn * 1_000_000 + q} for turn in range(4) for q in range(50)]


def take(rows: list[dict[str, Any]], parts: str = "mean", **how: Any) -> list[int]:
    return chosen_documents(rows, {}, Subsample(**how), parts)


def test_it_is_the_same_for_ever() -> None:
    """Literal: another version of this code must not choose others."""
    assert take([{}] * 1000, count=5) == [148, 505, 560, 574, 998]
    assert take([{}] * 1000, count=5, seed=1) != take([{}] * 1000, count=5)


def test_it_is_no_prefix_and_grows_by_adding() -> None:
    small, large = take([{}] * 1000, count=50), take([{}] * 1000, count=100)
    assert set(small) < set(large) and max(small) > 800
    assert large == sorted(set(large)) and len(large) == 100


def test_balanced_over_a_column() -> None:
    """POPE's file has one category after the other."""
    found = Counter(POPE[i]["category"] for i in take(POPE, count=90, by="category"))
    assert set(found.values()) == {30}
    uneven = [{"type": "a"}] * 500 + [{"type": "b"}] * 10
    found = Counter(uneven[i]["type"] for i in take(uneven, count=100, by="type"))
    assert found == {"a": 90, "b": 10}, "what one lacks the other gives"


def test_mme_keeps_its_pairs() -> None:
    indices = take(MME, "pairs", count=40, by="category")
    assert len(indices) == 40
    assert set(Counter(MME[i]["question_id"] for i in indices).values()) == {2}
    assert set(Counter(MME[i]["category"] for i in indices).values()) == {10}


def test_mmbench_keeps_all_rotations() -> None:
    indices = take(ROTATIONS, "circular", count=40)
    assert set(Counter(ROTATIONS[i]["index"] % 1_000_000 for i in indices).values()) == {4}


def test_a_unit_is_taken_whole() -> None:
    assert len(take(MME, "pairs", count=3)) == 4


def test_what_does_not_match_is_left_out() -> None:
    rows = [{"data_type": ("image", "video")[i % 3 == 0]} for i in range(30)]
    assert chosen_documents(rows, {"data_type": "image"}, None, "mean") == [
        i for i in range(30) if i % 3
    ]
    assert len(chosen_documents(rows, {"data_type": "video"}, Subsample(4), "mean")) == 4
    assert columns({"data_type": "image"}, None, "mean") == ["data_type"]
    assert columns({}, Subsample(4, by="category"), "pairs") == ["category", "question_id"]


def test_all_when_there_are_no_more() -> None:
    assert take([{}] * 7, count=10) == list(range(7))


@pytest.mark.parametrize("count", [0, -1, 0.5, True])
def test_a_wrong_count_is_refused(count: Any) -> None:
    with pytest.raises(UserError, match="expected an int >= 1"):
        Subsample(count)


def test_a_limit_takes_whole_units_in_the_order_of_the_file() -> None:
    assert chosen_documents([{}] * 9, {}, None, "mean", 4) == [0, 1, 2, 3]
    assert chosen_documents(MME, {}, None, "pairs", 3) == [0, 1, 2, 3]
    assert chosen_documents(ROTATIONS, {}, None, "circular", 2) == [0, 50, 100, 150]
    assert chosen_documents(ROTATIONS, {}, None, "circular", 5) == [
        0,
        1,
        50,
        51,
        100,
        101,
        150,
        151,
    ]
    drawn = chosen_documents(MME, {}, Subsample(20), "pairs")
    assert chosen_documents(MME, {}, Subsample(20), "pairs", 3) == drawn[:4]
    assert columns({}, None, "circular", 2) == ["index"] and columns({}, None, "mean", 2) == []
