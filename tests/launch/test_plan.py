"""A sweep as a graph: each missing artifact in one node, shared ones first, no run twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from coincide.schema import UserError
from launch.plan import Node, goal_key, plan_nodes
from launch.submit import plan_sweep
from tests.launch.conftest import Compose, pretend
from train.checkpoint import mark_complete

GRID = ("-m", "method=full,random,coincide,el2n", "budget=0.1,0.2", "seed=0,1")


def by_kind(nodes: list[Node]) -> Counter[str]:
    return Counter(node.kind for node in nodes)


def check(nodes: list[Node]) -> None:
    """What holds of every plan: nothing twice, and what a step stands on comes before it."""
    home = {step.key: node.name for node in nodes for step in node.steps}
    assert len(home) == sum(len(node.steps) for node in nodes)
    assert len({node.name for node in nodes}) == len(nodes)
    before: set[str] = set()
    for node in nodes:
        needed = {home[n.key] for s in node.steps for n in s.needs if n.key in home} - {node.name}
        assert needed <= set(node.after) <= before
        before.add(node.name)


def test_sixteen_points_are_fourteen_runs_of_one_pass(
    compose: Compose, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = compose(*GRID)
    assert len(jobs) == 14  # full is the same at every budget
    assert capsys.readouterr().out.count("left out: method=full budget=0.2") == 2
    nodes = plan_nodes(jobs)
    check(nodes)
    assert by_kind(nodes) == {
        "data": 1,
        "model": 2,
        "features": 1,
        "clusters": 1,
        "scores": 1,
        "subset": 1 + 4 + 2 + 2,  # only random's depends on the seed
        "adapter": 14,
    }
    (one_pass,) = (node for node in nodes if node.kind == "features")
    assert {step.config["signal"] for step in one_pass.steps} == {"activations", "token_scores"}
    assert len(one_pass.runs) == 2  # one of coincide's, one of el2n's
    assert sorted(n for node in nodes for n in node.records) == list(range(14))


def test_what_follows_another_method_waits_for_its_subset_and_shares_it(compose: Compose) -> None:
    jobs = compose("-m", "method=coincide,matched,presel")
    nodes = plan_nodes(jobs)
    check(nodes)
    assert by_kind(nodes) == {
        "data": 1,
        "model": 3,
        "features": 2 + 1,  # the reference's, the pictures', and after training on a part
        "clusters": 1,
        "scores": 1,
        "subset": 3 + 1,
        "merged": 1,
        "adapter": 3 + 1,
    }
    after = {step.config["signal"] for n in nodes if n.stage == "select" for step in n.steps
             if step.kind == "features"}  # fmt: skip
    assert after == {"token_scores", "token_scores_unasked"}


def test_a_checkpoint_of_another_layout_is_refused_before_anything_is_queued(
    compose: Compose, tmp_path: Path
) -> None:
    def planned(*words: str) -> list[Node]:
        return plan_sweep(compose("method=random", *words), lambda job: True, {})

    (job,) = compose("method=random")
    key = job.experiment.adapter.key[:12]
    written = tmp_path / "store" / "adapter" / f".partial-{key}" / "checkpoints" / "checkpoint-4"
    written.mkdir(parents=True)
    mark_complete(written, step=4, world_size=2, zero_stage=2, seconds=1.0)
    two = "train.zero_stage=2", "train.processes=2", "train.micro_batch=8"
    assert planned(*two)
    with pytest.raises(UserError, match=r"written by 2 process\(es\) with ZeRO stage 2"):
        planned("train.zero_stage=2", "train.processes=1")
    assert planned("train.zero_stage=2", "train.processes=1", "stages=[select]")
    assert planned("train.zero_stage=2", "train.processes=auto")


def test_scores_wait_for_their_own_adapter_alone(compose: Compose) -> None:
    nodes = plan_nodes(compose("-m", "method=random", "seed=0,1"), together=lambda job: False)
    check(nodes)
    assert by_kind(nodes)["eval"] == 2
    for node in (node for node in nodes if node.kind == "eval"):
        needs = [need for step in node.steps for need in step.needs]
        (adapter,) = {need.name for need in needs if need.kind == "adapter"}
        waits = [name for name in node.after if name.startswith("adapter")]
        assert len(waits) == 1 and adapter in waits[0]
        assert node.records
    assert not any(node.records for node in nodes if node.kind == "adapter")


def test_what_is_there_is_nobodys_work(compose: Compose) -> None:
    jobs = compose("-m", "method=coincide,random")
    first = jobs[0].experiment
    pretend(jobs[0], first.data, first.scan, first.subset)
    nodes = plan_nodes(jobs)
    check(nodes)
    assert by_kind(nodes) == {"model": 1, "subset": 1, "adapter": 2}  # no features for a subset


def test_what_is_on_its_way_is_waited_for(compose: Compose) -> None:
    jobs = compose("-m", "method=random", "seed=0,1")
    whole = plan_nodes(jobs)
    flying = {s.key: "7" for node in whole for s in node.steps if node.kind != "adapter"}
    flying |= {step.key: "8" for step in whole[-1].steps} | {goal_key(jobs[1]): "8"}
    (node,) = plan_nodes(jobs, in_flight=flying)
    assert node.kind == "adapter" and node.runs == (0,) and node.after_jobs == ("7",)


def test_scores_that_others_measure_are_recorded_when_they_are_there(compose: Compose) -> None:
    jobs = compose("method=random")
    flying = {step.key: "9" for node in plan_nodes(jobs) for step in node.steps}
    (node,) = plan_nodes(jobs, in_flight=flying)
    assert node.kind == "record" and node.records == (0,) and not node.steps
    assert node.after_jobs == ("9",)


def test_models_of_two_passes_are_two_nodes(compose: Compose) -> None:
    nodes = plan_nodes(compose("-m", "method=self_filter,el2n", "stages=[features,select]"))
    check(nodes)
    assert by_kind(nodes)["features"] == 2
    assert by_kind(nodes)["difficulty"] == 1
    assert not any(node.records for node in nodes)


def test_the_same_runs_in_another_order_make_the_same_nodes(compose: Compose) -> None:
    there = plan_nodes(compose("-m", "method=coincide,el2n,full", "budget=0.1,0.2"))
    back = plan_nodes(compose("-m", "method=full,el2n,coincide", "budget=0.2,0.1"))
    assert {n.name: set(n.after) for n in there} == {n.name: set(n.after) for n in back}


def test_a_stage_that_is_missing_and_not_asked_for_is_named(compose: Compose) -> None:
    with pytest.raises(UserError, match="its stage 'select' is not asked for"):
        plan_nodes(compose("-m", "method=random", "seed=0,1", "stages=[evaluate]"))


def test_machines_and_processes_are_the_recipes(compose: Compose) -> None:
    nodes = plan_nodes(
        compose("method=random", "train.nodes=2", "train.processes=4", "train.micro_batch=2")
    )
    (train,) = (node for node in nodes if node.kind == "adapter")
    assert (train.machines, train.processes) == (2, 4)
    assert all(node.machines == 1 for node in nodes if node is not train)
