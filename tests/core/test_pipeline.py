"""Demand-driven planning over real steps in a real store."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from coincide.pipeline import Stage, execute, plan
from coincide.schema import UserError
from coincide.store import Build, Step, Store
from coincide.system.files import write_json


def chain(value: int = 0) -> list[Stage]:
    def build(b: Build) -> dict[str, int]:
        write_json(b.dir / "x.json", value)
        return {}

    data = Step("data", "d", 1, {}, build)
    features = Step("features", "f", 1, {"value": value}, build, (data,))
    subset = Step("subset", "s", 1, {}, build, (data, features))
    return [
        Stage("prepare", (data,)),
        Stage("features", (features,)),
        Stage("select", (subset,)),
    ]


def states(store: Store, goals: tuple[str, ...], value: int = 0) -> list[str]:
    return [line.state for line in plan(chain(value), store, goals)]


def test_everything_is_built_then_cached(tmp_path: Path) -> None:
    store = Store(tmp_path)
    both = ("features", "select")
    assert states(store, both) == ["build", "build", "build"]
    execute(plan(chain(), store, both), store)
    assert states(store, both) == ["cached", "cached", "cached"]
    changed = plan(chain(1), store, both)
    assert [line.state for line in changed] == ["cached", "build", "build"]
    assert "value: 0 -> 1" in changed[1].why
    assert "another features: f-" in changed[2].why


def test_deleted_features_are_not_needed_while_the_subset_is_there(tmp_path: Path) -> None:
    store = Store(tmp_path)
    execute(plan(chain(), store, ("features", "select")), store)
    shutil.rmtree(tmp_path / "features")
    assert states(store, ("features", "select")) == ["cached", "not needed", "cached"]
    assert states(store, ("features",)) == ["cached", "build", "cached"]


def test_a_needed_stage_that_is_not_asked_for_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'features' is not asked for.*features,select"):
        plan(chain(), Store(tmp_path), ("select",))
