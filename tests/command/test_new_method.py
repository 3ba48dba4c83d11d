"""One file and one YAML make a method: composed, planned, run and topped up like any other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import run as program

CODE = '''
"""Every other row, from the end."""

from dataclasses import dataclass

import numpy as np

from coincide.schema import Pool, Selection


@dataclass(frozen=True)
class EveryOther:
    offset: int = 0
    name: str = "every_other"
    uses_seed = False
    fixed_size = False

    def needs(self):
        return ()

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        rows = np.flatnonzero(pool.usable)[::-1]
        order = np.concatenate([rows[self.offset :: 2], rows])
        return Selection(order[:k], ranking=rows, scores=np.arange(len(pool.examples)) / 2)
'''
YAML = "_target_: every_other.EveryOther\noffset: 1\n"


def test_one_file_and_one_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "every_other.py").write_text(CODE)
    shutil.copytree(program.CONF, tmp_path / "conf")
    (tmp_path / "conf" / "method" / "every_other.yaml").write_text(YAML)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(program, "CONF", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)

    words = ["method=every_other", "data.n=240", "budget=0.25", "stages=[select]"]
    (job,) = program.compose_all(words)
    program.hands(job).execute(job)
    (folder,) = (tmp_path / "store" / "subset").glob("every_other-demo-0.25-*")
    assert np.load(folder / "rows.npy").tolist() == list(range(238 - 2 * 59, 240, 2))
    assert len(json.loads((folder / "subset.json").read_text())) == 60
    assert np.load(folder / "scores.npy").dtype == np.float32
    facts = json.loads((folder / "manifest.json").read_text())["facts"]
    assert facts["params"] == {"offset": 1, "name": "every_other"}
