"""Code that changes an answer changes a version: ``tests/versions`` has the cases."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.versions.__main__ import TABLE, current, verdict
from tests.versions.cases import CASES, digest

KNOWN = json.loads(TABLE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", CASES)
def test_output_and_version_change_together(name: str) -> None:
    wrong = verdict(name, KNOWN.get(name), current(name))
    assert not wrong, wrong


def test_the_table_has_these_cases_and_every_kind_of_artifact() -> None:
    assert set(KNOWN) == set(CASES)
    kinds = {name.split("/")[0] for name in CASES}
    assert kinds == {
        "data", "model", "features", "clusters", "difficulty", "scores", "subset", "adapter",
        "eval",
    }  # fmt: skip


def test_what_changed_alone_is_told_with_what_to_do() -> None:
    one = {"version": "1", "hash": "a"}
    assert verdict("clusters", one, one) == ""
    said = verdict("clusters", one, {"version": "1", "hash": "b"})
    assert "raise CLUSTERS_VERSION in coincide/selection/stage.py" in said
    assert "python -m tests.versions --update" in said
    assert "for nothing" in verdict("clusters", one, {"version": "2", "hash": "a"})
    assert "as they should" in verdict("clusters", one, {"version": "2", "hash": "b"})


def test_the_hash_sees_values_and_not_the_last_bits() -> None:
    x = np.linspace(0, 1, 7)
    assert digest(x) == digest(x + 1e-13) != digest(x + 1e-2)
    assert digest({"a": 1, "b": [x]}) == digest({"b": [x], "a": 1})
    assert digest([1, [2]]) != digest([[1], 2]) and digest(x) != digest(x.astype(np.float32))
