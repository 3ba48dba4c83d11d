"""The paper's setting in miniature: its own line, its file layouts and its checkpoint formats.

A rehearsal of an offline cluster: everything is fetched on the login node, from a hub and
publishers that are then gone, and the run has no network at all.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from coincide.data.download import HUB
from tests.command.blocked import namespace, without_network
from tests.command.conftest import ROOT, command, environment
from tests.data.test_prepare import packed
from tests.eval import hub
from tests.mini import checkpoints, llava665k
from tests.mini.hub import serving

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
ASKED = ("gqa",)
OTHERS = "pope vqav2 vizwiz scienceqa_img textvqa mme mmbench_en mmbench_cn".split()
SUITE = (
    *(f"+eval.benchmarks.{name}.generation={{max_new_tokens: 4}}" for name in ASKED),
    *(f"~eval.benchmarks.{name}" for name in OTHERS),
)
"""Of ten benchmarks one, and the judged one, which is left out with its reason."""
CONFIGURED = yaml.safe_load((ROOT / "conf" / "data" / "llava.yaml").read_text())
DOWNLOADS: list[dict[str, Any]] = CONFIGURED["data"]["downloads"]


def archives(tree: Path) -> dict[str, bytes]:
    """What the publishers of LLaVA-665K's parts give for the miniature below ``tree``."""
    annotations = (tree / llava665k.ANNOTATIONS).read_bytes()
    return {
        urlsplit(item["url"]).path.removeprefix("/"): (
            packed(tree, item["to"], item["holds"]) if "holds" in item else annotations
        )
        for item in DOWNLOADS
    }


def addresses(server: str) -> str:
    """``data.downloads`` with ``server`` for every publisher but the hub, and no known sizes."""
    items = [
        {
            **{key: item[key] for key in ("_target_", "name", "to", "holds") if key in item},
            "url": item["url"]
            if item["url"].startswith(HUB)
            else server + urlsplit(item["url"]).path,
        }
        for item in DOWNLOADS
    ]
    listed = (",".join(f"{key}:'{value}'" for key, value in item.items()) for item in items)
    return f"data.downloads=[{','.join(f'{{{item}}}' for item in listed)}]"


class Machine:
    """A user's folder on a machine whose network can be cut."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.caches = {"HF_HOME": str(folder / "hf"), "XDG_CACHE_HOME": str(folder / "xdg")}

    def prefetch(self, server: str, *words: str) -> subprocess.CompletedProcess[str]:
        reach = {"HF_ENDPOINT": server, "NO_PROXY": "*"}
        fetch = [sys.executable, "-m", "coincide.prefetch", *words, addresses(server)]
        return self._call(fetch, {**environment(), **self.caches, **reach})

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """``run.py`` without a network."""
        return self._call(*without_network(command(*words), {**environment(), **self.caches}))

    def _call(self, words: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, cwd=self.folder, env=env, capture_output=True, text=True, timeout=550
        )


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """One on which ``coincide.prefetch`` found a network that is gone since."""
    published, machine = tmp_path_factory.mktemp("published"), tmp_path_factory.mktemp("machine")
    llava665k.make(published / "tree")
    checkpoints.make_all(published / "models")
    hub.mirror(published / "benchmarks")
    repos = {
        **{str(p.relative_to(published / "models")): p for p in (published / "models").glob("*/*")},
        **{f"datasets/{p.parent.name}/{p.name}": p for p in (published / "benchmarks").glob("*/*")},
    }
    with serving(repos, archives(published / "tree")) as (server, asked):
        found = Machine(machine).prefetch(server, *LINE, *SMALL, *SUITE)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "Everything is here; the runs need no network." in found.stdout
    assert "mm_projector.bin" in asked
    return Machine(machine)


@pytest.mark.slow
@pytest.mark.fresh
def test_the_papers_line_runs_to_its_report_without_a_network(machine: Machine) -> None:
    folder = machine.folder
    doctor = machine.run(*LINE, *SMALL, *SUITE, "command=doctor")
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert "Ready" in doctor.stdout
    assert re.search(r"(?m)^evaluate +(<|\d)", doctor.stdout), "and what it will cost"

    found = machine.run(*LINE, *SMALL, *SUITE)
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

    again = machine.run(*LINE, *SMALL, *SUITE, "dry_run=true")
    assert "Everything is cached" in again.stdout, again.stdout + again.stderr


def test_where_everything_is_missing_nothing_runs_and_all_is_named(tmp_path: Path) -> None:
    found = Machine(tmp_path).run(*LINE)
    assert found.returncode == 2
    for word in ("llava_v1_5_mix665k.json", "lmsys/vicuna-7b-v1.5", "bczhou/TinyLLaVA-2.0B",
                 "lmms-lab-encoder/GQA", "coincide.data.prepare", "coincide.prefetch"):  # fmt: skip
        assert word in found.stderr
    assert not (tmp_path / "store").exists()

    planned = Machine(tmp_path).run(*LINE, "dry_run=true")
    assert planned.returncode == 0, planned.stderr
    assert "missing" in planned.stdout
    assert "27.3 GB" in planned.stdout, "the features of LLaVA-665K"
    assert not (tmp_path / "store").exists()


@pytest.mark.skipif(not namespace(), reason="this system gives no network namespace")
def test_without_a_network_not_even_this_machines_own_servers_answer() -> None:
    with serving({}, {"file": b"there"}) as (server, _):
        ask = [sys.executable, "-c", f"from urllib.request import *; urlopen('{server}/file')"]
        assert subprocess.run(ask, env={**environment(), "NO_PROXY": "*"}).returncode == 0
        cut, env = without_network(ask, environment())
        refused = subprocess.run(cut, env=env, capture_output=True, text=True)
    assert "Connection refused" in refused.stderr
