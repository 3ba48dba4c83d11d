"""Scores as an artifact: one for all budgets, plotted and exported."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import run as program
from coincide.schema import UserError
from coincide.scores import plot, read

WORDS = ("data.n=240", "data.items=12", "data.clusters=8", "health.largest_cluster=0.5")


def step_of(*words: str) -> str:
    (job,) = program.compose_all([*WORDS, *words])
    scored = job.experiment.scored
    assert scored is not None
    return scored.folder


def test_budgets_directions_and_seeds_share_the_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = step_of("method=el2n", "budget=0.1")
    assert one == step_of("method=el2n", "budget=0.5", "method.direction=high", "seed=3")
    assert one != step_of("method=perplexity")
    graph = step_of("method=d2_pruning")
    assert graph == step_of("method=d2_pruning", "budget=0.4", "method.gamma_reverse=0.9")
    assert graph != step_of("method=d2_pruning", "method.neighbors=7")
    drawn = [step_of("method=semdedup", "method.keep=random", f"seed={seed}") for seed in (0, 1)]
    assert drawn[0] != drawn[1]


def test_a_method_without_scores_has_no_such_step() -> None:
    (job,) = program.compose_all([*WORDS, "method=random"])
    assert job.experiment.scored is None


def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    score = rng.normal(size=300).astype(np.float32)
    score[::7] = np.nan
    names = [f"s{i % 17} <b>$x$" for i in range(300)]
    return pd.DataFrame({"row": range(300), "id": "a", "source": names, "score": score})


def test_the_plot_has_a_panel_for_each_large_source(tmp_path: Path) -> None:
    plot(table(), tmp_path / "scores.svg")
    text = (tmp_path / "scores.svg").read_text()
    assert len(set(re.findall(r"<!-- (s\d+) ", text))) == 12
    assert "other sources" in text
    assert "257 examples, 43 not judged" in text


def test_a_folder_that_holds_no_scores_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a scores artifact.*no such folder"):
        read(tmp_path / "nothing")


def test_the_command_writes_both_files(tmp_path: Path) -> None:
    folder = tmp_path / "el2n-demo-0123"
    folder.mkdir()
    table().to_parquet(folder / "scores.parquet", index=False)
    words = [sys.executable, "-m", "coincide.scores", str(folder), "--out", str(tmp_path / "out")]
    found = subprocess.run(words, cwd=program.CONF.parent, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    exported = pd.read_csv(tmp_path / "out" / "el2n-demo-0123.csv")
    assert list(exported.columns) == ["row", "id", "source", "score"]
    assert exported["score"].isna().sum() == 43
