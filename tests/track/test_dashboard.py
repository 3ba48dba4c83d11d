"""The dashboard's specification, as it would be sent, without a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coincide.ledger.evidence import ArtifactShelf
from coincide.ledger.files import write_result
from coincide.schema import UserError
from tests.report.fixture import ledger
from tests.track.server import serving
from tests.track.world import World
from track import dashboard
from track.contents import CURVES, with_store_contents
from track.dashboard import create, report, specification
from track.replay import ledger_runs
from track.settings import Logger

OFFLINE = Logger(mode="offline", project="lab")
pytestmark = pytest.mark.timeout(120)


def written(folder: Path) -> Path:
    """A folder with the results of the invented ledger."""
    for result in ledger():
        write_result(folder / "ledger", result)
    return folder / "ledger"


@pytest.fixture
def spec() -> dict[str, Any]:
    pytest.importorskip("wandb_workspaces")
    return specification(report(OFFLINE, ledger(), entity="someone"))


def grids(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [block["metadata"] for block in spec["blocks"] if block["type"] == "panel-grid"]


def charts(spec: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [
        panel["config"]
        for grid in grids(spec)
        for panel in grid["panelBankSectionConfig"]["panels"]
        if panel["viewType"] == kind
    ]


def test_rel_by_method_as_bars_with_intervals(spec: dict[str, Any]) -> None:
    rel = next(chart for chart in charts(spec, "Bar Chart") if chart["metrics"] == ["rel"])
    assert rel["groupBy"] == "row.value"
    assert (rel["groupAgg"], rel["groupArea"], rel["aggregate"]) == ("mean", "stderr", True)


def test_rel_against_budget_and_against_cost(spec: dict[str, Any]) -> None:
    axes = {(c["xAxis"], c["yAxis"]) for c in charts(spec, "Scatter Plot")}
    assert axes == {("summary:budget", "summary:rel"), ("summary:cost/seconds", "summary:rel")}


def test_a_table_and_a_chart_for_each_benchmark(spec: dict[str, Any]) -> None:
    bars = {chart["metrics"][0] for chart in charts(spec, "Bar Chart")}
    assert bars == {"rel", "rel/attributes", "rel/counting", "rel/presence"}
    tables = json.dumps(charts(spec, "Weave"))
    assert all(f'"{name}"' in tables for name in ("benchmarks", "composition", "clusters"))


def test_training_curves_by_method(spec: dict[str, Any]) -> None:
    curves = charts(spec, "Run History Line Plot")
    assert [c["metrics"] for c in curves] == [["train/loss"], ["train/grad_norm"]]
    assert all(c["groupBy"] == "row.value" for c in curves)
    assert {m.removeprefix("train/") for c in curves for m in c["metrics"]} <= set(CURVES)


def test_each_grid_shows_the_runs_of_its_panel_and_stage(spec: dict[str, Any]) -> None:
    filters = [
        {f["key"]["name"]: f["value"] for f in grid["runSets"][0]["filters"]["filters"]}
        for grid in grids(spec)
    ]
    where = {"data_name": "demo", "target_name": "tiny"}
    assert filters == [
        {"jobType": "evaluate", **where},
        {"jobType": "evaluate", **where},
        {"jobType": "train", **where},
        {"jobType": "select", "data_name": "demo"},
    ]


def test_charts_do_not_overlap(spec: dict[str, Any]) -> None:
    for grid in grids(spec):
        boxes = [panel["layout"] for panel in grid["panelBankSectionConfig"]["panels"]]
        taken = [
            (x, y)
            for box in boxes
            for x in range(box["x"], box["x"] + box["w"])
            for y in range(box["y"], box["y"] + box["h"])
        ]
        assert len(taken) == len(set(taken))
        assert max(x for x, _ in taken) < 24


def test_the_charts_ask_for_names_that_the_runs_have(world: World) -> None:
    pytest.importorskip("wandb_workspaces")
    runs = [
        with_store_contents(run, artifact_mb=1, thumbnails=4)
        for run in ledger_runs(world.ledger, world.ledger, ArtifactShelf(world.store))
    ]
    have = {f"summary:{name}" for run in runs for name in run.summary}
    have |= {f"{name}.value" for run in runs for name in run.config}
    have |= {name for run in runs for name in (*run.summary, *run.tables)}
    have |= {name for run in runs for point in run.history for name in point}
    spec = specification(report(OFFLINE, world.ledger, entity="someone"))
    asked = set(_names(charts(spec, "Bar Chart"))) | set(_names(charts(spec, "Scatter Plot")))
    assert asked <= have
    for grid in grids(spec):
        for item in grid["runSets"][0]["filters"]["filters"]:
            assert item["key"]["section"] == "run" or f"{item['key']['name']}.value" in have


def _names(found: list[dict[str, Any]]) -> Iterator[str]:
    for chart in found:
        yield from chart.get("metrics", [])
        yield from (chart[key] for key in ("groupBy", "xAxis", "yAxis") if key in chart)


def test_an_empty_ledger_still_makes_a_dashboard() -> None:
    pytest.importorskip("wandb_workspaces")
    assert len(grids(specification(report(OFFLINE, [], entity="someone")))) == 4


def test_offline_the_specification_is_a_file(tmp_path: Path) -> None:
    pytest.importorskip("wandb_workspaces")
    told = create(Logger(mode="offline", dir=str(tmp_path)), written(tmp_path))
    (path,) = tmp_path.rglob("dashboard.json")
    assert str(path) in told
    assert json.loads(path.read_text())["blocks"]


def test_online_one_call_makes_it_and_another_brings_it_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb_workspaces")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        online = Logger(mode="online", dir=str(tmp_path), project="coincide")
        told = create(online, tmp_path / "empty")
        assert create(online, written(tmp_path)) == told
    assert not server.unknown
    assert told.startswith(f"The dashboard: {server.url}/someone/coincide/reports/")
    ((kept,),) = [server.views.values()]
    assert charts(kept, "Bar Chart")[0]["metrics"] == ["rel"]
    assert len(grids(kept)) == 4


def test_without_the_client_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(UserError, match=r"pip install 'wandb-workspaces"):
        dashboard.create(replace(OFFLINE, dir=str(tmp_path)), tmp_path)


def test_without_an_account_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb_workspaces")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(UserError, match="wandb login"):
        create(Logger(mode="online", dir=str(tmp_path)), tmp_path / "ledger")


def test_a_server_that_is_down_is_waited_for_no_longer_than_the_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb_workspaces")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with pytest.raises(UserError, match="the dashboard was not made"):
        create(Logger(mode="online", dir=str(tmp_path), timeout=5), tmp_path / "ledger")
