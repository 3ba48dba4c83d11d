"""A result becomes the same records wherever it is replayed; nothing here touches wandb."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from coincide.ledger.evidence import ArtifactShelf
from coincide.ledger.result import Score
from tests.report.fixture import ledger
from tests.track.world import SECRET, World, with_secrets
from track.compared import compare_with_ledger
from track.contents import POINTS, with_store_contents
from track.records import WandbRun, digest, runs_of, without_secrets
from track.replay import ledger_runs, matches
from track.settings import group_of

NOWHERE = ArtifactShelf(Path("/nowhere"))


def runs(world: World) -> dict[str, WandbRun]:
    found = ledger_runs(world.ledger, world.ledger, ArtifactShelf(world.store))
    return {f"{run.job_type} {run.config['method_name']}": run for run in found}


def whole(run: WandbRun, **size: int) -> WandbRun:
    return with_store_contents(run, **{"artifact_mb": 10, "thumbnails": 8, **size})


def test_three_runs_for_a_result_and_each_id_tells_what_it_made(world: World) -> None:
    found = ledger_runs([world.random], world.ledger, ArtifactShelf(world.store))
    assert [run.job_type for run in found] == ["select", "train", "evaluate"]
    assert found[0].id == f"select-{world.random.keys['subset'][-12:]}"
    assert found[1].id == f"train-{world.random.keys['adapter'][-12:]}"
    assert all(run.group == "sweep-toy" for run in found)
    assert found[2].tags == ("random", "toy", "tiny", "0.3333")


def test_another_place_for_the_store_changes_neither_id_nor_digest(world: World) -> None:
    here = ledger_runs(world.ledger, world.ledger, ArtifactShelf(world.store))
    there = ledger_runs(world.ledger, world.ledger, NOWHERE)
    assert [(run.id, digest(run)) for run in here] == [(run.id, digest(run)) for run in there]
    assert not any(run.sources for run in there)


def test_a_store_that_renamed_the_artifact_still_has_it(world: World) -> None:
    folder = world.random.keys["subset"].replace("random-toy", "another-name")
    assert ArtifactShelf(world.store).folder(folder) == world.store / world.random.keys["subset"]
    assert ArtifactShelf(world.store).folder("subset/../../etc-passwd") is None


def test_a_full_run_that_comes_later_changes_the_evaluations_alone(world: World) -> None:
    before = ledger_runs([world.random], [world.random], ArtifactShelf(world.store))
    after = ledger_runs([world.random], world.ledger, ArtifactShelf(world.store))
    changed = [a.job_type for a, b in zip(after, before, strict=True) if digest(a) != digest(b)]
    assert changed == ["evaluate"]
    assert "rel" not in before[2].summary
    assert after[2].summary["rel"] == pytest.approx((75 + 80) / 2)
    assert after[2].summary["rel/counting"] == pytest.approx(75)


def test_rel_of_each_seed_averages_to_the_reports_rel() -> None:
    results = ledger()
    among = compare_with_ledger(results)
    from coincide.ledger.files import file_name
    from coincide.report.compare import panels

    for row in panels(results)[0].rows:
        mine = [among[file_name(run)].rel for run in row.runs]
        assert row.rel.estimate is not None
        assert sum(v for v in mine if v is not None) / len(mine) == pytest.approx(
            row.rel.estimate.mean
        )


def test_costs_and_seconds_are_in_the_summary(world: World) -> None:
    summary = runs(world)["evaluate coincide"].summary
    assert summary["cost/seconds"] == pytest.approx(46)
    assert summary["seconds/train"] == 40
    assert "cost/gpu_hours" not in summary  # no GPU was there


def test_experiments_that_share_a_subset_share_its_run(world: World) -> None:
    other = replace(
        world.full, seed=1, keys={**world.full.keys, "adapter": "adapter/b-0123456789ab"}
    )
    ids = [run.id for run in ledger_runs([world.full, other], world.ledger + [other], NOWHERE)]
    assert ids[0] == ids[3]
    assert len(set(ids)) == 5


def test_a_result_without_scores_gives_what_it_has(world: World) -> None:
    part = replace(world.random, scores=(), keys={"subset": world.random.keys["subset"]})
    (run,) = runs_of(part, ArtifactShelf(world.store))
    full = ledger_runs([world.random], world.ledger, ArtifactShelf(world.store))[0]
    assert (run.id, digest(run)) == (full.id, digest(full))


def test_how_replies_were_read_and_pictures_asked_is_in_the_summary(
    world: World, tmp_path: Path
) -> None:
    folder = tmp_path / "eval" / "mmmu-tiny-0123456789ab"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text('{"n": 4, "pictures_moved": 2}')
    (folder / "manifest.json").write_text('{"files": {}, "facts": {}, "needs": {}}')
    first = replace(world.random.scores[0], readable=0.25, lmms_eval=70.0)
    lenient = replace(first, value=64.0, protocol="scoring=lenient", readable=0.5)
    asked = Score("mmmu", "accuracy", 1.0, 4, samples="eval/mmmu-tiny-0123456789ab")
    result = replace(world.random, scores=(first, asked), lenient=(lenient,))
    found = ledger_runs([result], [result], ArtifactShelf(tmp_path, reader="track"))[2]
    assert found.summary["readable/counting"] == 0.25 and "readable/mmmu" not in found.summary
    assert found.summary["lmms_eval/counting/exact_match"] == 70.0
    assert found.summary["lenient/counting/exact_match"] == 64.0
    table = found.tables["benchmarks"]
    assert [row[table.columns.index("readable")] for row in table.rows] == [0.25, None]
    assert whole(found).summary["pictures_moved/mmmu"] == 2


# --- what the store adds ----------------------------------------------------------------------


def test_the_curve_the_adapter_and_the_subset_it_used(world: World) -> None:
    run = whole(runs(world)["train random"])
    assert [point["step"] for point in run.history] == list(range(1, 31))
    assert run.history[2] == {"step": 3, "train/loss": 2.0}
    assert [name for name, _ in run.makes[0].files] == [
        "adapter/adapter_config.json",
        "log.jsonl",
        "adapter/adapter_model.safetensors",
    ]
    assert [used.type for used in run.uses] == ["subset"]
    assert run.makes[0].metadata["facts"]["steps"] == 30


def test_long_curves_are_thinned_and_keep_their_end(world: World, tmp_path: Path) -> None:
    import json

    from track.contents import _curve

    steps = range(1, 3 * POINTS + 2)
    lines = (json.dumps({"step": i, "loss": float("nan") if i == 1 else 1.0}) for i in steps)
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    found = list(_curve(tmp_path / "log.jsonl"))
    assert len(found) <= POINTS
    assert found[-1] == {"step": 3 * POINTS + 1, "train/loss": 1.0}
    assert all("train/loss" in point for point in found if point["step"] != 1)


def test_clusters_have_the_pictures_of_their_picks(world: World) -> None:
    run = whole(runs(world)["select coincide"])
    table = run.tables["clusters"]
    assert table.columns == ("cluster", "size", "chosen", "score", "examples")
    assert table.rows[0] == (0, 4, 2, 0.5, {"strip": ["a/0.png", "a/6.png"]})
    assert [row[3] for row in run.tables["allocation"].rows] == [0.5, 0.25, None]
    assert sum(run.histograms["scores/clusters"]["counts"]) == 2
    assert len(whole(runs(world)["select coincide"], thumbnails=1).tables["clusters"].rows) == 1


def test_scores_of_rows_make_two_histograms(world: World) -> None:
    found = whole(runs(world)["select random"]).histograms
    assert {name: sum(h["counts"]) for name, h in found.items()} == {
        "scores/all": 12,
        "scores/chosen": 4,
    }


def test_an_artifact_keeps_to_its_limit_and_names_what_it_leaves_out(world: World) -> None:
    (files,) = whole(runs(world)["select full"], artifact_mb=0).makes
    assert files.files == ()
    assert set(files.metadata["left_out"]) == {"rows.npy", "ids.json", "subset.json"}


def test_a_ledger_without_its_store_still_has_scores_and_composition() -> None:
    found = [whole(run) for run in ledger_runs(ledger(), ledger(), NOWHERE)]
    assert {run.job_type for run in found} == {"select", "evaluate"}
    assert all(run.tables["composition"].rows for run in found)
    assert not any(run.makes or run.uses or run.history for run in found)


# --- secrets ----------------------------------------------------------------------------------


def test_no_secret_is_in_any_record(world: World) -> None:
    for run in ledger_runs(
        [with_secrets(world.coincide)], world.ledger, ArtifactShelf(world.store)
    ):
        assert SECRET in repr(whole(run))
        clean = without_secrets(whole(run), {"JUDGE_TOKEN": SECRET, "PATH": "toy"})
        assert SECRET not in repr(clean)
        assert "toy" in repr(clean)


def test_secrets_are_looked_up_when_they_are_cut(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # `datasets` with several processes puts a copy in the place of os.environ
    monkeypatch.setattr(os, "environ", {**os.environ, "JUDGE_TOKEN": SECRET})
    (run, *_) = ledger_runs(
        [with_secrets(world.coincide)], world.ledger, ArtifactShelf(world.store)
    )
    assert SECRET not in repr(whole(without_secrets(run)))


# --- filters and groups -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "config", "found"),
    [
        ([], {}, True),
        (["method=random"], {"method": {"name": "random"}}, True),
        (["method=el2n"], {"method": {"name": "el2n"}}, False),
        (["train.lr=1e-3"], {"train": {"lr": 1e-3}}, True),
        (["train.lr=2e-3"], {"train": {"lr": 2e-3}}, False),
        (["logger=wandb", "paths.ledger=x", "command=dashboard_sync"], {"paths": {}}, True),
        (["experiment=mine"], {}, True),
    ],
)  # fmt: skip
def test_words_select_results(
    world: World, words: list[str], config: dict[str, object], found: bool
) -> None:
    assert matches(world.random, words, config) is found


def test_a_sweep_has_the_same_name_in_any_order_and_wherever_it_runs() -> None:
    name = group_of(["-m", "method=a,b", "seed=0,1"])
    assert name == group_of(["seed=0,1", "method=a,b", "-m", "logger=wandb", "launcher=slurm"])
    assert name == group_of(["seed=0,1", "method=a,b", "paths.store=/x", "stages=[select]"])
    assert name != group_of(["seed=0,1", "method=a"])
