"""Code that changes an answer changes a version: ``tests/versions`` has the cases."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from tests.versions.__main__ import TABLE, current, verdict
from tests.versions.cases import CASES, digest

OTHERWISE = {
    "from_file", "activations", "token_scores", "hidden_last", "clip_image", "clip_text",
    "gradient_length", "token_spectrum", "attention_spectrum",
}  # fmt: skip
"""Rows that a user gives, signals that the cases of coincide, el2n, semdedup and clip_score hash by
the names of those methods, and what the case of gradients hashes."""
KNOWN = json.loads(TABLE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", CASES)
def test_output_and_version_change_together(name: str) -> None:
    wrong = verdict(name, KNOWN.get(name), current(name))
    assert not wrong, wrong


def test_the_table_has_these_cases_and_every_kind_of_artifact() -> None:
    assert set(KNOWN) == set(CASES)
    kinds = {name.split("/")[0] for name in CASES}
    assert kinds == {
        "data", "model", "scan", "features", "clusters", "difficulty", "merged", "scores", "subset",
        "adapter", "eval", "rows", "warmup",
    }  # fmt: skip


def test_every_version_signal_and_method_has_a_case() -> None:
    """Also those that are added one day."""
    root = TABLE.parents[2]
    versions = {
        f"{name} in {path.relative_to(root)}"
        for folder in ("coincide", "baselines", "train", "eval")
        for path in (root / folder).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if (found := re.match(r"([A-Z_, ]+) = .", line))
        for name in found[1].split(", ")
        if name.endswith("VERSION")
    }
    assert len(versions) > 15
    assert versions == {case.where for case in CASES.values() if "VERSION in " in case.where}
    kinds = {"signals": (root / "coincide" / "features" / "signals", "features/(.+)"),
             "methods": (root / "baselines", "subset/(.+)")}  # fmt: skip
    for folder, pattern in kinds.values():
        texts = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
        names = set(re.findall(r'^    name: (?:ClassVar\[)?str\]? = "(\w+)"', texts, re.M))
        known = {match[1] for name in CASES if (match := re.fullmatch(pattern, name))}
        assert names - known - OTHERWISE == set() and len(names) > 12, folder


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
