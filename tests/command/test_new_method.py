"""One file and one YAML make a method: the guide's own, composed, run and held to its rule."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import run as program

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "ADD_A_METHOD.md"


def block(language: str) -> tuple[str, str]:
    """The guide's only block in ``language``: the path that its first line names, and its text."""
    (text,) = re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.S)
    return text.split("\n", 1)[0].removeprefix("# "), text


def test_the_guide_s_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code_path, code), (yaml_path, yaml) = block("python"), block("yaml")
    assert (code_path, yaml_path) == ("baselines/balance.py", "conf/method/balance.yaml")
    (tmp_path / "balance_of_the_guide.py").write_text(code)
    shutil.copytree(program.CONF, tmp_path / "conf")
    target = ("baselines.balance.", "balance_of_the_guide.")  # beside the project, not in it
    assert target[0] in yaml
    (tmp_path / yaml_path).write_text(yaml.replace(*target))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(program, "CONF", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)

    small = ["data.n=240", "data.clusters=12", "health.largest_cluster=0.9"]
    for words in (["method=coincide"], ["method=balance"]):
        (job,) = program.compose_all([*words, "budget=0.25", *small, "stages=[features,select]"])
        program.executor(job).run(job)
    assert len(list((tmp_path / "store" / "clusters").iterdir())) == 1  # shared with COINCIDE
    (folder,) = (tmp_path / "store" / "subset").glob("balance-demo-0.25-*")
    rows = np.load(folder / "rows.npy")
    assert len(rows) == len(set(rows.tolist())) == 60
    assert len(json.loads((folder / "subset.json").read_text())) == 60
    (clusters,) = (tmp_path / "store" / "clusters").iterdir()
    assignment = np.load(clusters / "assignment.npy")
    taken, sizes = np.bincount(assignment[rows], minlength=12), np.bincount(assignment)
    level = taken.max()
    assert (taken[sizes >= level] >= level - 1).all()  # the same number of each
    np.testing.assert_array_equal(taken[sizes < level - 1], sizes[sizes < level - 1])
