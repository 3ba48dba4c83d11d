"""The paper's setting in miniature: its own line, its file layouts and its checkpoint formats."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.command.conftest import command, environment
from tests.eval import hub
from tests.mini import checkpoints, llava665k

LINE = ("method=coincide", "data=llava", "budget=0.2")
SMALL = (
    "data.expect=any",
    "data.lost_at_most=0.1",
    "data.clusters=12",
    "reference.layers=[0,1,2]",
    "reference.dtype=float32",
    "train.rank=4",
    "train.global_batch=16",
    "train.micro_batch=8",
    "train.workers=0",
    "eval.dtype=float32",
    "health.largest_cluster=0.9",
    "health.invalid_rows=0.1",
)
"""What miniatures need; nothing about where things are."""
WEIGHTS = (
    "reference.repo=w/bczhou/TinyLLaVA-2.0B",
    "reference.tower=w/bczhou/TinyLLaVA-2.0B-SigLIP",
    "target.language=w/lmsys/vicuna-7b-v1.5",
    "target.vision=w/openai/clip-vit-large-patch14-336",
    "target.projector=w/liuhaotian/llava-v1.5-mlp2x-336px-pretrain-vicuna-7b-v1.5",
)
ASKED = ("gqa", "mmbench_en")
OTHERS = ("pope", "vqav2", "vizwiz", "scienceqa_img", "textvqa", "mme", "mmbench_cn")
SUITE = (
    *(f"+eval.benchmarks.{name}.generation={{max_new_tokens: 4}}" for name in ASKED),
    *(f"~eval.benchmarks.{name}" for name in OTHERS),
)
"""Of ten benchmarks two, and the judged one, which is left out with its reason."""


def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    offline = {**environment(), "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    return subprocess.run(
        command(*words), cwd=folder, env=offline, capture_output=True, text=True, timeout=550
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    llava665k.make(tmp_path / "data" / "llava")
    checkpoints.make_all(tmp_path / "w")
    hub.mirror(tmp_path / "benchmarks")
    return tmp_path


@pytest.mark.slow
def test_the_papers_line_runs_to_its_report(folder: Path) -> None:
    found = call(folder, *LINE, *SMALL, *WEIGHTS, *SUITE)
    assert found.returncode == 0, found.stdout + found.stderr

    (subset,) = (folder / "store" / "subset").iterdir()
    facts = json.loads((subset / "manifest.json").read_text())["facts"]
    assert facts["k"] == int(0.2 * llava665k.ROWS)
    assert set(facts["composition"]) <= set(llava665k.BLOCKS)
    assert len(json.loads((subset / "subset.json").read_text())) == facts["k"]

    (line,) = (folder / "ledger").glob("coincide-llava-*.json")
    scores = json.loads(line.read_text())["scores"]
    measured = {s["benchmark"] for s in scores if s["value"] is not None}
    assert measured == set(ASKED)
    left_out = [s for s in scores if s["benchmark"] == "llava_w"]
    assert left_out
    assert all(s["value"] is None and "judge" in s["why"] for s in left_out)
    assert (folder / "reports" / "report.html").is_file()

    again = call(folder, *LINE, *SMALL, *WEIGHTS, *SUITE)
    assert "Everything is cached" in again.stdout, again.stdout + again.stderr


def test_where_everything_is_missing_nothing_runs_and_all_is_named(tmp_path: Path) -> None:
    found = call(tmp_path, *LINE)
    assert found.returncode == 2
    for word in ("llava_v1_5_mix665k.json", "lmsys/vicuna-7b-v1.5", "bczhou/TinyLLaVA-2.0B",
                 "lmms-lab-encoder/GQA", "coincide.data.prepare", "coincide.prefetch"):  # fmt: skip
        assert word in found.stderr
    assert not (tmp_path / "store").exists()

    planned = call(tmp_path, *LINE, "dry_run=true")
    assert planned.returncode == 0, planned.stderr
    assert "missing" in planned.stdout
    assert "27.3 GB" in planned.stdout, "the features of LLaVA-665K"
    assert not (tmp_path / "store").exists()


def test_the_doctor_where_all_is_there(folder: Path) -> None:
    found = call(folder, *LINE, *SMALL, *WEIGHTS, *SUITE, "command=doctor")
    assert found.returncode == 0, found.stdout + found.stderr
    assert "Ready" in found.stdout
