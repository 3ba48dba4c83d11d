"""The two embedded pools are frozen, and share neither keys nor pictures."""

from __future__ import annotations

import json
from pathlib import Path

from coincide.data.demo import Demo
from coincide.data.demo.lab import Lab
from coincide.store import Store
from coincide.system.files import sha256_file

DEMO = "demo-eec1cdb4c824"
LAB = "lab-ec63e2cc3880"
"""The data artifacts of the committed tables. Another key is another pool: raise its VERSION."""


def test_the_pools_are_those_of_the_committed_tables() -> None:
    assert Demo().step().folder == f"data/{DEMO}"
    assert Lab().step().folder == f"data/{LAB}"


def test_the_lab_is_the_demos_world_with_other_draws(tmp_path: Path) -> None:
    store = Store(tmp_path)
    sources = [Demo(n=200, items=2), Lab(n=200, items=2)]
    folders = [store.ensure(source.step()).path for source in sources]
    names = [sorted(p.name for p in (f / "benchmarks").iterdir()) for f in folders]
    assert names[0] == names[1]
    kinds = [[r["source"] for r in json.loads((f / "train.json").read_text())] for f in folders]
    assert kinds[0] == kinds[1], "the same mixture"
    pictures = [{sha256_file(p) for p in f.glob("images/*/*.png")} for f in folders]
    assert pictures[0].isdisjoint(pictures[1])
    asked = [sha256_file(f / "benchmarks" / "reading" / "test.parquet") for f in folders]
    assert asked[0] != asked[1]
    opened = sources[1].open(folders[1])
    assert len(opened) == 200 and opened.name == "lab"
