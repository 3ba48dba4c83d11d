"""A pool goes from the hub to an adapter; all of them the whole way: ``python -m tests.pools``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import run as program
from coincide.data.prepare import prepare
from coincide.data.verify import verify
from tests.mini.hub import serving
from tests.pools.__main__ import CLASSES
from tests.pools.made import MAKERS, REPOSITORIES, the_cauldron

WORDS = (
    "data=the_cauldron", "data.expect=any", "target=tiny", "reference=tiny", "train=demo",
    "eval=demo", "train.max_steps=2", "train.save_every=null", "method=random", "budget=6",
    "stages=[select,train]",
)  # fmt: skip


def test_a_pool_goes_from_the_hub_to_an_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    the_cauldron(tmp_path / "hub")
    (job,) = program.compose_all([*WORDS, f"paths.data={tmp_path}"])
    source = job.experiment.source
    with serving({f"datasets/{REPOSITORIES['the_cauldron']}": tmp_path / "hub"}, {}) as (at, asked):
        monkeypatch.setenv("HF_ENDPOINT", at)
        prepare(source)
        assert len(asked) == 2
    found = verify(source, tmp_path / "reports")
    assert found["sources"]["ai2d"] == {
        "rows": 6, "ok": 4, "converted": 0, "missing": 0, "corrupt": 0, "rows_touched": 0,
    }  # fmt: skip
    program.executor(job).run(job)
    (subset,) = (tmp_path / "store" / "subset").glob("*/subset.json")
    assert all(
        ".parquet#" in name for row in json.loads(subset.read_text()) for name in row["image"]
    )
    (log,) = (tmp_path / "store" / "adapter").glob("*/log.jsonl")
    losses = [json.loads(line).get("loss") for line in log.read_text().splitlines()]
    assert len([loss for loss in losses if loss is not None]) == 2
    assert not [p for p in (tmp_path / "the_cauldron").rglob("*") if p.suffix in (".png", ".jpg")]


def test_every_pool_has_a_class_and_a_miniature() -> None:
    assert CLASSES.keys() == MAKERS.keys() == {"parquet", *REPOSITORIES}
    for pool in MAKERS:
        text = (program.CONF / "data" / f"{pool}.yaml").read_text()
        assert REPOSITORIES.get(pool, "coincide.data.pool.ParquetPool") in text
