"""One file makes a signal: the guide's own, over pool and target rows, run and held to its rule."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import run as program
from coincide.features.engine.shards import ShardedArray
from coincide.schema import UserError
from coincide.store import Store

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "ADD_A_SIGNAL.md"
SMALL = ["data.n=200", "method=near_targets", "budget=20", "stages=[features,select]"]


@pytest.fixture
def guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The guide's three files, beside the project and not in it."""
    text = GUIDE.read_text(encoding="utf-8")
    blocks = {b.split("\n", 1)[0].removeprefix("# "): b for _, b in
              re.findall(r"```(python|yaml)\n(.*?)```", text, re.S)}  # fmt: skip
    signal = blocks["coincide/features/signals/text_mean.py"]
    method = blocks["baselines/near_targets.py"].replace("coincide.features.signals.", "")
    (tmp_path / "text_mean.py").write_text(signal)
    (tmp_path / "near_targets.py").write_text(method)
    shutil.copytree(program.CONF, tmp_path / "conf")
    yaml = blocks["conf/method/near_targets.yaml"].replace("baselines.", "")
    (tmp_path / "conf" / "method" / "near_targets.yaml").write_text(yaml)
    for name in ("text_mean", "near_targets"):  # of an earlier test's folder
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(program, "CONF", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_guides_signal_and_its_targets(guide: Path) -> None:
    (plain,) = program.compose_all([*SMALL[:1], "method=random", "budget=20", SMALL[3]])
    program.executor(plain).run(plain)
    (data,) = (guide / "store" / "data").iterdir()
    rows = json.loads((data / "train.json").read_text())
    chosen = [3, 50, 121]
    (guide / "dev.json").write_text(json.dumps([rows[i] for i in chosen]))

    words = [*SMALL, "targets=llava_json", "targets.annotations=dev.json"]
    (job,) = program.compose_all([*words, f"targets.images={data / 'images'}"])
    program.executor(job).run(job)
    experiment = job.experiment
    pool, targets = (
        np.asarray(ShardedArray(Store(guide / "store").artifact(each.step).path))
        for each in experiment.wanted
    )
    assert pool.shape == (200, targets.shape[1])
    assert len(targets) == 3
    np.testing.assert_array_equal(targets, pool[chosen])  # the same rows, in another batch
    subset = experiment.store.artifact(experiment.subset)
    assert set(chosen) <= set(np.load(subset.path / "rows.npy").tolist())
    named = [name for name in subset.manifest["needs"].values() if "targets" in name]
    assert len(named) == 1, "the manifest names what the method looked at"


def test_a_method_that_looks_at_targets_asks_for_them(guide: Path) -> None:
    (job,) = program.compose_all(SMALL)
    with pytest.raises(UserError, match="near_targets looks at target rows, and none are given"):
        program.executor(job).run(job)
