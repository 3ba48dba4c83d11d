"""Which runs are averaged, what they are compared with, and what is never mixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from coincide.ledger.result import Result
from coincide.report import views
from coincide.report.compare import Panel, PanelRow, panels
from coincide.report.published import published_beside
from coincide.report.tables import caption, cells, header, lines
from tests.report.fixture import ledger, result

METHODS_OF_LEDGER = ("full", "random", "coincide")


def only(results: list[Result]) -> Panel:
    (panel,) = panels(results)
    return panel


def row_of(panel: Panel, method: str, budget: float = 0.2) -> PanelRow:
    (row,) = [r for r in panel.rows if r.method == method and r.budget == budget]
    return row


def texts(panel: Panel) -> str:
    return "\n".join(f"{note.text} {note.command}" for note in panel.notes)


def test_rel_is_against_the_mean_of_our_own_full_runs() -> None:
    panel = only(ledger())
    expected = [100 * (v / f) for v, f in zip((72, 52, 87), (82, 62, 92), strict=True)]
    found = row_of(panel, "coincide").rel
    assert found.estimate is not None
    assert found.estimate.mean == pytest.approx(sum(expected) / 3)
    assert found.columns == ("attributes", "counting", "presence")
    whole = row_of(panel, "full", 1.0).rel.estimate
    assert whole is not None
    assert whole.mean == pytest.approx(100)


def test_larger_budgets_first_and_the_best_first_within_one() -> None:
    panel = only(ledger())
    assert [(r.method, r.budget, r.rank) for r in panel.rows] == [
        ("full", 1.0, None), ("coincide", 0.2, 1), ("random", 0.2, 2), ("random", 0.1, 1),
    ]  # fmt: skip


def test_without_a_full_run_rel_is_missing_and_the_command_is_given() -> None:
    panel = only([result("random", 0, (60.0, 40.0, 80.0))])
    assert panel.rows[0].rel.estimate is None
    assert panel.rows[0].rank is None
    assert "python run.py method=full data=demo target=tiny eval=demo seed=0" in texts(panel)


def test_the_missing_full_run_keeps_the_overrides_that_are_not_the_methods() -> None:
    words = ["method=coincide", "method.temperature=0.2", "budget=0.2", "train.lr=0.01", "seed=3"]
    run = result("coincide", 3, (60.0, 40.0, 80.0), config={"overrides": words})
    assert "python run.py method=full train.lr=0.01 seed=3" in texts(only([run]))


def test_a_missing_score_stays_missing_and_rel_is_not_taken_over_fewer_columns() -> None:
    panel = only([*ledger(), result("el2n", 0, (50.0, None, 70.0))])
    row = row_of(panel, "el2n")
    assert row.missing == {"counting": "worker died"}
    assert row.rel.estimate is None
    assert row.rank is None
    assert "el2n, 800 examples: no Rel. (%): no counting (worker died)." in texts(panel)
    assert row_of(panel, "random").rel.estimate is not None


def test_a_column_that_the_full_run_lacks_is_left_out_for_all_and_named() -> None:
    runs = [replace(r, scores=r.scores[:2]) if r.method == "full" else r for r in ledger()]
    panel = only(runs)
    assert row_of(panel, "random").rel.columns == ("attributes", "counting")
    assert "Rel. (%) is without presence for all: full: not evaluated." in texts(panel)


def test_rel_above_chance_is_a_column_of_its_own() -> None:
    suite = {"benchmarks": {"a": {"name": "presence", "chance": 50.0}}}
    runs = [replace(r, config={**r.config, "eval": suite}) for r in ledger()]
    row = row_of(only(runs), "random")
    assert row.rel.estimate is not None and row.rel_chance.estimate is not None
    expected = [100 * 62 / 82, 100 * 42 / 62, 100 * (82 - 50) / (92 - 50)]
    assert row.rel_chance.estimate.mean == pytest.approx(sum(expected) / 3)
    assert row.rel.estimate.mean > row.rel_chance.estimate.mean


GQA = "split=testdev balanced; prompt=single word or phrase; scoring=exact match; batch=1"
VQAV2 = "split=validation; prompt=single word or phrase; scoring=VQA accuracy over ten answers"
AS_PUBLISHED = {
    "gqa": GQA,
    "textvqa": "split=validation; prompt=single word or phrase; ocr_tokens=given; "
    "scoring=VQA accuracy over ten answers",
}


def published_like(
    run: Result, protocols: Mapping[str, str] | None = None, second: str = "textvqa"
) -> Result:
    """The run as one on the data, target and benchmarks of a published table."""
    names = {"attributes": "gqa", "counting": second, "presence": "mmmu"}
    named = (replace(s, benchmark=names[s.benchmark], metric="accuracy") for s in run.scores)
    known = {**AS_PUBLISHED, **(protocols or {})}
    scores = tuple(replace(s, protocol=known.get(s.benchmark, s.protocol)) for s in named)
    return replace(run, data="llava", target="llava_1_5_7b", scores=scores)


@pytest.mark.parametrize(
    ("budgets", "shown"), [([0.1], [0.1]), ([0.3, 0.05], [0.05, 0.3]), ([0.15], [0.1]), ([], [0.1])]
)
def test_tables_of_rel_alone_are_shown_once_each(budgets: list[float], shown: list[float]) -> None:
    found = published_beside("llava_onevision", "llava_onevision_7b", budgets)
    assert [table.printed.budget for table in found] == shown
    assert all(table.row("coincide").rel <= table.row("random").rel for table in found)  # type: ignore[union-attr]


def test_rel_zoo_is_against_the_published_full_row_over_the_columns_of_both() -> None:
    panel = only([published_like(run) for run in ledger()])
    row = row_of(panel, "random")
    assert row.rel_zoo.columns == ("gqa", "textvqa")
    assert row.rel_zoo.estimate is not None
    assert row.rel_zoo.estimate.mean == pytest.approx((100 * 62 / 63.0 + 100 * 42 / 58.2) / 2)
    assert row.rel_zoo.left_out["mmmu"] == "not published"
    assert row.rel.columns == ("gqa", "textvqa", "mmmu")


def test_a_figure_of_another_protocol_is_shown_marked_and_enters_no_mean() -> None:
    """VQAv2 is printed on test-dev, by the server; ours is validation."""
    runs = [published_like(run, {"vqav2": VQAV2}, "vqav2") for run in ledger()]
    panel = only(runs)
    row = row_of(panel, "random")
    assert row.rel_zoo.columns == ("gqa",)
    assert row.rel_zoo.estimate is not None
    assert row.rel_zoo.estimate.mean == pytest.approx(100 * 62 / 63.0)
    why = "split: published test-dev, ours validation; scoring: published VQA accuracy by the "
    assert row.rel_zoo.left_out["vqav2"].startswith(why)
    assert f"Left out of it, † where printed: vqav2 ({why}" in "\n".join(caption(panel))
    printed = next(line for line in lines(panel) if line.label == "random, published")
    shown = dict(zip(header(panel), cells(panel, printed), strict=True))
    assert (shown["gqa"], shown["vqav2"]) == ("58.9", "75.7 †")
    assert printed.rel["rel_zoo"].columns == ("gqa",)


def test_where_no_protocol_agrees_there_is_nothing_against_published() -> None:
    other = {"gqa": "", "vqav2": VQAV2}
    row = row_of(only([published_like(run, other, "vqav2") for run in ledger()]), "random")
    assert row.rel_zoo.estimate is None
    assert row.rel_zoo.why == "no benchmark is measured as the published one"
    assert "ours not recorded" in row.rel_zoo.left_out["gqa"]


@pytest.mark.parametrize(
    ("benchmark", "protocol", "why"),
    [
        ("gqa", GQA.replace("exact match", "exact match, case and punctuation aside"), ""),
        ("gqa", GQA.replace("scoring=", "scoring=lenient: "), "scoring"),
        ("mmbench_en", "split=dev en; prompt=option letter; scoring=static", "scoring"),
        ("textvqa", AS_PUBLISHED["textvqa"].replace("given", "none"), "ocr_tokens"),
        ("llava_w", "split=train; prompt=the question alone; scoring=judged relative to the "
         "reference answer; judge=gpt-4-0314@x", ""),
        ("llava_w", "split=train; prompt=the question alone; scoring=judged relative to the "
         "reference answer; judge=gpt-5@x", "judge"),
    ],
)  # fmt: skip
def test_split_prompt_scoring_tokens_and_judge_must_agree(
    benchmark: str, protocol: str, why: str
) -> None:
    (zoo,) = published_beside("llava", "llava_1_5_7b")
    metric = "relative" if benchmark == "llava_w" else "accuracy"
    found = zoo.differs(benchmark, metric, protocol)
    assert found.split(":")[0] == why


PART = "split=test; subsample=200, seed 0; batch=1"


@pytest.mark.parametrize("part", [PART, "split=test; limit=100"])
def test_a_part_of_a_benchmark_never_stands_beside_published_rows(part: str) -> None:
    mixed = only([published_like(run, {"gqa": part}) for run in ledger()])
    assert row_of(mixed, "random").rel_zoo.columns == ("textvqa",)
    printed = [line for line in lines(mixed) if line.printed]
    assert {line.label for line in printed} == {f"{m}, published" for m in METHODS_OF_LEDGER}
    assert {tuple(line.scores) for line in printed} == {("textvqa",)}


def test_the_fast_suite_has_nothing_published_beside_it() -> None:
    """``eval=fast`` asks a part of every benchmark."""
    names = ("gqa", "textvqa", "mmmu")
    runs = [published_like(run, dict.fromkeys(names, PART)) for run in ledger()]
    panel = only([replace(run, suite="fast") for run in runs])
    assert panel.zoo == ()
    assert not [line for line in lines(panel) if line.printed]
    assert "against published (%)" not in header(panel)
    assert not [text for text in caption(panel) if "published" in text]


def test_each_budget_has_the_published_table_of_its_own_beside_it() -> None:
    """At 15 % VisNec's page, at 20 % MAGIC's table, at 25 % DICS, of which Rel. alone is known."""
    budgets = {"random": 0.15, "coincide": 0.2, "el2n": 0.25}
    runs = [result("full", 0, (80.0, 60.0, 90.0), budget=1.0)]
    runs += [result(m, 0, (60.0, 40.0, 80.0), budget=b) for m, b in budgets.items()]
    panel = only([published_like(run) for run in runs])
    assert [table.printed.budget for table in panel.zoo] == [0.2, 0.15, 0.25]
    row = row_of(panel, "random", 0.15).rel_zoo
    assert row.estimate is not None
    assert row.estimate.mean == pytest.approx((100 * 60 / 63.0 + 100 * 40 / 57.9) / 2)
    printed = {line.label: line.scores["gqa"].mean for line in lines(panel) if line.printed}
    assert printed == {
        "full, published beside 20%": 63.0, "full, published beside 15%": 63.0,
        "random, published at 15%": 55.1, "coincide, published at 20%": 59.8,
    }  # fmt: skip
    assert "(20% and 15%; else 20%)" in "\n".join(caption(panel))
    (at_15,) = [t for t in views.published(panel) if t["title"].endswith(", 15%")]
    shown = {r["label"]: [c.text for c in r["cells"]] for r in at_15["rows"]}
    assert shown["typiclust"] == ["96.9", *[None] * 10] and shown["random"][:2] == ["94.2", "75.3"]


def test_chance_is_that_of_the_columns_own_metric() -> None:
    """A run by another metric, whose chance is another number, says nothing of the column."""
    odd = result("el2n", 0, (60.0, 40.0, 80.0), budget=1.0)
    suites = [{"benchmarks": {"a": {"name": "presence", "chance": c}}} for c in (50.0, 12.0)]
    runs = [replace(r, config={**r.config, "eval": suites[0]}) for r in ledger()]
    scores = tuple(replace(s, metric="f1") for s in odd.scores)
    other = replace(odd, scores=scores, config={**odd.config, "eval": suites[1]})
    for first in ([other, *runs], [replace(other, method="full", seed=-1), *runs]):
        assert only(first).column("presence").chance == 50.0


def test_target_aware_methods_are_placed_apart() -> None:
    runs = [*ledger(), result("icons", 0, (90.0, 70.0, 99.0))]
    panel = only(runs)
    places = [(r.method, r.rank) for r in panel.rows if r.budget == 0.2]
    assert places == [("coincide", 1), ("random", 2), ("icons", 1)]
    assert row_of(panel, "icons").label == "icons, sees targets"
    looked = replace(result("mine", 0, (90.0, 70.0, 99.0)), contents={"targets": "1a2b3c"})
    other = replace(looked, seed=0, contents={"targets": "4d5e6f"}, scores=looked.scores)
    shown = [r for r in only([*ledger(), looked, other]).rows if r.target_aware]
    assert len(shown) == len({r.label for r in shown}) == 2, "other target rows, another row"
    declared = replace(runs[-1], config={"method": {"target_aware": False}})
    places = [(r.method, r.rank) for r in only([*ledger(), declared]).rows if r.budget == 0.2]
    assert places[0] == ("icons", 1)


def test_a_score_missing_in_one_seed_is_missing_and_says_which() -> None:
    runs = [result("el2n", 0, (50.0, 40.0, 70.0)), result("el2n", 1, (50.0, None, 70.0))]
    row = row_of(only([*ledger(), *runs]), "el2n")
    assert "counting" not in row.scores
    assert row.missing == {"counting": "seed 1: worker died"}


@pytest.mark.parametrize("change", [{"protocol": "with OCR tokens"}, {"metric": "f1"}])
def test_another_protocol_or_metric_is_never_mixed_in(change: dict[str, str]) -> None:
    odd = result("el2n", 0, (50.0, 50.0, 70.0))
    scores = (replace(odd.scores[0], **change), *odd.scores[1:])
    row = row_of(only([*ledger(), replace(odd, scores=scores)]), "el2n")
    assert row.missing["attributes"].startswith(f"another {next(iter(change))}")
    assert row.rel.estimate is None


def test_the_full_run_decides_the_protocol_of_a_column() -> None:
    """Even where most runs have another one."""
    runs = []
    for run in ledger():
        odd = tuple(replace(score, protocol="other") for score in run.scores)
        runs.append(run if run.method == "full" else replace(run, scores=odd))
    panel = only(runs)
    assert {column.protocol for column in panel.columns} == {"demo, greedy"}
    why = row_of(panel, "coincide").rel.why
    assert why.startswith("no attributes (another protocol: other); no counting")


def test_other_settings_are_other_rows_named_by_what_differs() -> None:
    """A sweep over temperatures is not a sweep over seeds."""
    runs = [
        result("coincide", seed, (t * 100, 50.0, 80.0), config={"method": {"temperature": t}})
        for t in (0.1, 0.5)
        for seed in (0, 1)
    ]
    panel = only(runs)
    assert sorted(r.label for r in panel.rows) == [
        "coincide (released) [temperature=0.1]",
        "coincide (released) [temperature=0.5]",
    ]
    assert sorted(r.scores["attributes"].values for r in panel.rows) == [(10, 10), (50, 50)]


def test_what_most_settings_share_is_said_once() -> None:
    """An ablation goes from one setting in several directions."""
    changes: list[dict[str, Any]] = [{}, {"temperature": 0.5}, {"clusters": 20}, {"layers": [1]}]
    usual = {"temperature": 0.1, "clusters": 80, "layers": [1, 2]}
    runs = [
        result("coincide", seed, (50.0, 50.0, 80.0), config={"method": {**usual, **change}})
        for change in changes
        for seed in (0, 1)
    ]
    panel = only(runs)
    names = ("", " [clusters=20]", " [layers=[1]]", " [temperature=0.5]")
    assert sorted(r.label for r in panel.rows) == [f"coincide (released){name}" for name in names]
    note = "coincide, where its label does not say otherwise: clusters=80, layers=[1,2], "
    assert panel.notes[0].text == f"{note}temperature=0.1."


@pytest.mark.parametrize(
    "change",
    [
        {"train": {"lr": 1e-3, "micro_batch": 8, "workers": 4}},
        {"paths": {"store": "/tmp"}, "features": {"batch_size": 2}, "seed": 1},
        {"reference": {"layers": [1]}},  # random uses no reference model
        {"data": {"annotations": "/elsewhere/a.json", "root": "/elsewhere", "n": 4000}},
        {"eval": {"mirror": "/elsewhere", "benchmarks": {"a": {"chance": 0.5}}}},
    ],
)
def test_what_changes_no_answer_makes_no_other_row(change: dict[str, Any]) -> None:
    config = {"train": {"lr": 1e-3, "micro_batch": 4}, "data": {"n": 4000}, "seed": 0}
    plain = result("random", 0, (1.0, 2.0, 3.0), config=config)
    other = result("random", 1, (1.0, 2.0, 3.0), config={**config, **change})
    assert [row.seeds for row in only([plain, other]).rows] == [[0, 1]]


@pytest.mark.parametrize(
    "change", [{"train": {"lr": 2e-3}}, {"data": {"n": 8000}}, {"data": {"n": 4000, "seed": 1}}]
)
def test_what_changes_an_answer_makes_another_row(change: dict[str, Any]) -> None:
    config = {"train": {"lr": 1e-3}, "data": {"n": 4000, "seed": 0}}
    plain = result("random", 0, (1.0, 2.0, 3.0), config=config)
    other = result("random", 1, (1.0, 2.0, 3.0), config={**config, **change})
    assert len(only([plain, other]).rows) == 2


def test_a_full_run_by_another_recipe_is_not_the_hundred_per_cent() -> None:
    full = result("full", 0, (80.0, 60.0, 90.0), budget=1.0, config={"train": {"lr": 0.001}})
    run = result("random", 0, (40.0, 30.0, 45.0), config={"train": {"lr": 0.002}})
    row = row_of(only([full, run]), "random")
    assert row.rel.estimate is None
    assert row.rel.why == "in the nearest full-data run train.lr is 0.001, not 0.002"
    right = replace(full, config={"train": {"lr": 0.002}}, scores=run.scores)
    found = row_of(only([full, right, run]), "random").rel.estimate
    assert found is not None
    assert found.mean == pytest.approx(100)


def test_a_rerun_replaces_the_older_result_of_the_same_seed_and_is_noted() -> None:
    newer = replace(result("random", 0, (1.0, 1.0, 1.0)), created="2027-01-01T00:00:00Z")
    panel = only([newer, *ledger()])
    assert row_of(panel, "random").scores["attributes"].values == (1.0, 64.0)
    assert "random, 800 examples, seed 0 was run twice with other scores (attributes 60" in texts(
        panel
    )
    again = replace(ledger()[5], created="2027-01-01T00:00:00Z")
    assert "twice" not in texts(only([*ledger(), again]))


def test_data_targets_and_suites_are_never_in_one_panel() -> None:
    run = result("random", 0, (1.0, 2.0, 3.0))
    found = panels(
        [run, replace(run, data="llava"), replace(run, target="b"), replace(run, suite="z")]
    )
    assert len(found) == 4


def test_scores_over_other_numbers_of_samples_are_noted() -> None:
    odd = result("el2n", 0, (50.0, 50.0, 70.0))
    scores = (replace(odd.scores[0], n=50), *odd.scores[1:])
    assert "attributes: scores rest on different numbers of samples: [50, 200]" in texts(
        only([*ledger(), replace(odd, scores=scores)])
    )


def test_one_seed_is_noted() -> None:
    assert "One seed, so no interval: el2n." in texts(
        only([*ledger(), result("el2n", 0, (1.0, 2.0, 3.0))])
    )


def test_a_full_run_cut_short_is_an_arm_and_not_the_100_percent() -> None:
    def trained(steps: int | None) -> dict[str, Any]:
        return {"train": {"lr": 2e-3, "max_steps": steps}, "method": {"name": "full"}}

    panel = only(
        [
            result("full", 0, (80.0, 60.0, 90.0), budget=1.0, config=trained(None)),
            result("full", 0, (40.0, 30.0, 45.0), budget=1.0, config=trained(200)),
            result("random", 0, (20.0, 15.0, 22.5), config=trained(None)),
        ]
    )
    rel = {row.label: row.rel.estimate and row.rel.estimate.mean for row in panel.rows}
    assert rel == {
        "full": pytest.approx(100),
        "full [max_steps=200]": pytest.approx(50),
        "random": pytest.approx(25),
    }
