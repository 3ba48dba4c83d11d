"""Names as parts of file names: safe for file systems, SLURM and wandb, and told apart."""

from __future__ import annotations

import re

import pytest

from coincide.system.files import as_name


@pytest.mark.parametrize("name", ["demo", "llava-v1.5_7b", "full-demo-0.2-s0", "x" * 100])
def test_a_plain_name_stays(name: str) -> None:
    assert as_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["org/set", "..", "../../x", "演示", "x" * 260, "a b", "a\0b", "", ".partial-x", "-rf", "a\\b"],
)
def test_any_other_becomes_one_part_of_a_path(name: str) -> None:
    found = as_name(name)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", found)


def test_names_that_lose_the_same_stay_apart() -> None:
    names = ["演示", "数据", "a/b", "a b", "a-b", "x" * 260, "x" * 261]
    assert len({as_name(name) for name in names}) == len(names)
