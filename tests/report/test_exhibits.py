"""What the store adds to a report, and what is said where it has nothing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from coincide.ledger.evidence import ArtifactShelf, Samples
from coincide.ledger.result import Result, Score
from coincide.report.build import build_report
from coincide.report.compare import panels
from coincide.report.drill import SHOWN, drill
from coincide.report.exhibits import exhibit
from coincide.report.gallery import _values, gallery
from coincide.report.overlap import overlap, overlaps
from coincide.report.pairs import compare_all
from coincide.report.pictures import Budget, benchmark_pictures
from coincide.report.records import Panel
from coincide.system.files import items_of_list, write_list
from tests.report.fixture import ledger, result
from tests.report.shelf import fill, png

LARGE = 10**9


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Result]]:
    root = tmp_path_factory.mktemp("store")
    return root, fill(root, ledger())


@pytest.fixture
def panel(filled: tuple[Path, list[Result]]) -> Panel:
    return panels(filled[1])[0]


@pytest.fixture
def shelf(filled: tuple[Path, list[Result]]) -> ArtifactShelf:
    return ArtifactShelf(filled[0])


# --- look-ups -----------------------------------------------------------------------------------


def test_an_artifact_is_found_under_another_name_and_another_root(
    filled: tuple[Path, list[Result]], shelf: ArtifactShelf
) -> None:
    recorded = filled[1][0].keys["subset"]
    key = recorded.rsplit("-", 1)[-1]
    found = shelf.folder(f"/elsewhere/store/subset/renamed-{key}")
    assert found == filled[0] / recorded
    assert shelf.folder(f"subset/renamed-{key[1:]}") is None


@pytest.mark.parametrize(
    "recorded",
    [
        "",
        "subset",
        "subset/..",
        "../subset/coincide-000320000000",
        "subset/*",
        "subset/a b-00",
        "/etc/passwd",
    ],
)
def test_a_ledger_cannot_lead_out_of_the_store(shelf: ArtifactShelf, recorded: str) -> None:
    found = shelf.folder(recorded)
    assert found is None or found.parent == shelf.root / "subset"  # type: ignore[operator]
    assert ArtifactShelf(None).folder(recorded) is None


def test_samples_are_columns_with_units_and_missing_scores_left_out(tmp_path: Path) -> None:
    rows = [
        {"doc_id": 2, "score": 1.0, "num": 50.0, "den": 0.5, "unit": "p", "stratum": "ocr"},
        {"doc_id": 0, "score": 0.5, "answer": ["any", 1]},
        {"doc_id": 1, "score": None},
    ]
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = Samples(path).numbers
    assert found["doc_id"].tolist() == [0, 2]
    assert found["num"].tolist() == [0.5, 50.0]
    assert found["den"].tolist() == [1.0, 0.5]
    assert found["unit"].tolist() == ["0", "p"]
    assert found["stratum"].tolist() == ["", "ocr"]
    assert Samples(path).texts([1])[1]["score"] is None


# --- differences --------------------------------------------------------------------------------


def test_pairs_rest_on_samples_where_the_store_has_them(panel: Panel, shelf: ArtifactShelf) -> None:
    found = compare_all(panel, shelf)
    assert found.of == "Rel. (%)"
    assert found.why == ()
    assert {d.samples for d in found.overall.values()} == {120}
    assert found.overall[0, 1].mean == pytest.approx(
        100 - panel.rows[1].rel.estimate.mean  # type: ignore[union-attr]
    )
    one = found.by_benchmark[0, 1]["attributes"]
    scores = [panel.rows[i].scores["attributes"].mean for i in (0, 1)]
    assert one.mean == pytest.approx(scores[0] - scores[1])
    assert set(found.intervals) == {1, 2, 3}


def test_without_samples_the_seeds_are_compared_and_it_is_said(panel: Panel) -> None:
    found = compare_all(panel, ArtifactShelf(None))
    assert {d.samples for d in found.overall.values()} == {0}
    assert found.by_benchmark == {}
    assert any("samples of attributes are not in this store" in text for text in found.why)


def test_samples_that_do_not_give_the_score_are_not_used(filled: tuple[Path, list[Result]]) -> None:
    root, runs = filled
    wrong = [replace(r, scores=(replace(r.scores[0], value=0.123), *r.scores[1:])) for r in runs]
    found = compare_all(panels(wrong)[0], ArtifactShelf(root))
    [why] = found.why
    assert "attributes is left out" in why and "its score is 0.123" in why and "full" in why
    assert found.columns == ("counting", "presence") and "without attributes" in found.of
    assert set(found.by_benchmark[0, 1]) == {"counting", "presence"}
    assert {d.samples for d in found.overall.values()} == {80}, "the others are compared"


# --- overlap ------------------------------------------------------------------------------------


def test_overlaps_of_rows_are_over_all_pairs_of_seeds(panel: Panel, shelf: ArtifactShelf) -> None:
    found = overlaps(panel, shelf)
    assert found.rows == (1, 2, 3)
    rows = {i: [shelf.rows(run) for run in panel.rows[i].runs] for i in found.rows}
    for (i, j), share in found.share.items():
        pairs = combinations(rows[i], 2) if i == j else product(rows[i], rows[j])
        each = [overlap(a, b) for a, b in pairs if a is not None and b is not None]
        shared = sum(one.shared for one in each)
        assert share == shared / sum(min(one.first, one.second) for one in each)
        either = sum(one.first + one.second - one.shared for one in each)
        assert found.jaccard[i, j] == shared / either
    assert found.share[1, 2] == pytest.approx(0.2, abs=0.04)  # random subsets of a fifth
    assert found.share[1, 1] == pytest.approx(0.2, abs=0.06)
    assert overlaps(panel, ArtifactShelf(None)).absent == (
        "coincide (released)",
        "random",
        "random",
    )


# --- samples ------------------------------------------------------------------------------------


def test_samples_that_differ_most_come_first_with_pictures(
    panel: Panel, shelf: ArtifactShelf
) -> None:
    found = drill(panel, shelf, Budget(LARGE))
    assert len(found["runs"]) == 8
    assert found["rows"] == [0, 0, 1, 1, 2, 2, 3, 3]
    one = found["benchmarks"][0]
    assert (one["name"], one["all"], len(one["samples"])) == ("attributes", 40, SHOWN)
    spread = [np.var(sample["scores"]) for sample in one["samples"]]
    assert spread == sorted(spread, reverse=True)
    first = one["samples"][0]
    assert first["picture"].startswith("data:image/png;base64,")
    assert [a == "A" for a in first["answers"]] == [s == 1 for s in first["scores"]]
    assert "\n" in first["question"]


def test_how_replies_were_read_and_pictures_asked_is_told(
    filled: tuple[Path, list[Result]], tmp_path: Path
) -> None:
    root, runs = filled
    shutil.copytree(root / "eval", tmp_path / "eval")
    readings = [
        {"read_as": None, "unreadable": "several options", "lenient_as": "A"},
        {"read_as": "yes", "pictures_moved": True},
        {"read_as": "A"},
        {},
    ]
    for path in (tmp_path / "eval").glob("attributes-*"):
        rows = [json.loads(line) for line in (path / "samples.jsonl").read_text().splitlines()]
        more = [{**row, "answer": "A", **readings[row["doc_id"] % 4]} for row in rows]
        (path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in more))
        (path / "result.json").write_text('{"n": 40, "pictures_moved": 10}')
    some = [replace(run, scores=(replace(run.scores[0], readable=0.75), *run.scores[1:]))
            for run in runs]  # fmt: skip
    one, other = drill(panels(some)[0], ArtifactShelf(tmp_path), Budget(0))["benchmarks"][:2]
    said = ["unreadable (several options)", "read as yes", "", ""]
    assert all(set(s["read"]) == {said[s["doc"] % 4]} for s in one["samples"])
    assert all(s["moved"] == (s["doc"] % 4 == 1) for s in one["samples"])
    assert one["told"][0] == "Replies that could be read: 75.0% at least."
    assert one["told"][1].startswith("10 of 40 questions name their pictures out of order")
    assert other["told"] == [] and not any(map(any, (s["read"] for s in other["samples"])))


def test_pictures_stop_when_the_bytes_are_spent(panel: Panel, shelf: ArtifactShelf) -> None:
    found = drill(panel, shelf, Budget(2000))
    pictures = [s["picture"] for one in found["benchmarks"] for s in one["samples"]]
    assert 0 < sum(map(len, pictures)) < 4000
    assert "" in pictures


def test_a_picture_of_another_question_is_not_shown(
    filled: tuple[Path, list[Result]], shelf: ArtifactShelf
) -> None:
    run = filled[1][0]
    asked = {0: {"question_id": "no such", "question": "which?"}}
    assert benchmark_pictures(shelf, run, "attributes", asked) == (
        {}, "none has the question's id, or none decodes",
    )  # fmt: skip
    asked = {5: {"question_id": "3"}, 6: {"question_id": "4"}}
    found, why = benchmark_pictures(shelf, run, "attributes", asked)
    assert (sorted(found), why) == ([5, 6], "")
    assert found[5][0].getpixel((0, 0)) == (111, 17, 159)  # that of question 3, not of row 5


def test_pictures_of_a_mirrored_benchmark_are_those_of_the_same_id_and_question(
    tmp_path: Path,
) -> None:
    """Ids repeat in POPE: the question tells its rows apart."""
    folder = tmp_path / "store" / "eval" / "pope-00000000000a"
    folder.mkdir(parents=True)
    content = "c" * 64
    config = {"benchmark": "pope", "dataset": "lab/POPE", "content": content}
    (folder / "manifest.json").write_text(json.dumps({"config": config, "needs": {}}))
    mirror = tmp_path / "store" / ".cache" / "benchmarks" / content[:16] / "lab" / "POPE" / "data"
    asked = {
        7: {"question_id": "1", "question": "Is there a  dog?\nAnswer yes or no."},
        8: {"question_id": "1", "question": "Is there a cat?\nAnswer yes or no."},
    }
    run = result("random", 0, (), keys={"eval.pope": "eval/pope-00000000000a"})
    shelf = ArtifactShelf(tmp_path / "store")
    run = replace(run, scores=(Score("pope", "f1", 1.0, 1, samples="eval/pope-00000000000a"),))
    assert benchmark_pictures(shelf, run, "pope", asked) == (
        {}, "the dataset lab/POPE is not on this machine",
    )  # fmt: skip
    mirror.mkdir(parents=True)
    rows = {
        "question_id": [1, 1, 2], "question": ["Is there a cat?", "Is there a dog?", "Is it?"],
        "image": [{"bytes": png(i, 8), "path": ""} for i in range(3)],
    }  # fmt: skip
    pd.DataFrame(rows).to_parquet(mirror / "test-0.parquet")
    found, why = benchmark_pictures(shelf, run, "pope", asked)
    assert (sorted(found), why) == ([7, 8], "")
    assert found[7][0].getpixel((0, 0)) == (37, 91, 53)
    assert found[8][0].getpixel((0, 0)) == (0, 0, 0)


# --- clusters -----------------------------------------------------------------------------------


def test_the_gallery_shows_each_cluster(panel: Panel, shelf: ArtifactShelf) -> None:
    found = gallery(panel, shelf, Budget(LARGE))
    assert found is not None
    assert found["label"] == "coincide (released), seed 0"
    assert sum(found["columns"]["chosen"]) == 800
    assert found["columns"]["density"][0] is None  # an empty cluster's NaN
    assert [len(examples) for examples in found["examples"]] == [3] * 40
    for cluster, examples in enumerate(found["examples"]):
        for question, answer, picture, chosen in examples:
            row = int(question.removeprefix("what is in row ").removesuffix("?"))
            assert row % 40 == cluster
            assert answer == f"thing {row}"
            assert picture.startswith("data:image/png")
            assert chosen


def test_of_many_clusters_those_that_gave_most_rows_have_examples(
    panel: Panel, shelf: ArtifactShelf
) -> None:
    whole = gallery(panel, shelf, Budget(LARGE))
    few = gallery(panel, shelf, Budget(LARGE), texts=5 * 3 * 2 * 160)
    assert whole is not None and few is not None
    assert few["columns"] == whole["columns"], "the figures of all"
    most = sorted(range(40), key=lambda i: (-whole["columns"]["chosen"][i], i))[:5]
    assert [i for i, each in enumerate(few["examples"]) if each] == sorted(most)
    assert all(few["examples"][i] == whole["examples"][i] for i in most)
    assert "of the 5 that gave most rows" in few["no_pictures"]
    assert not whole["no_pictures"]


@pytest.mark.parametrize(
    "line", ['{"id": 1,\n "x": "a"}', '{"id": 1, "x": [\n{"y": 2},\n{"y": 3}]}']
)
def test_single_rows_of_a_subset_are_found_without_parsing_the_others(
    tmp_path: Path, line: str
) -> None:
    """Where a row looks like several, all are parsed."""
    rows, path = np.array([4, 7, 9]), tmp_path / "subset.json"
    texts = ['{"id": "a", "conversations": [], "image": "a.png"}', line, '{"id": "c"}']
    write_list(path, texts)
    found = items_of_list(path, 3, [0, 2])
    if ",\n{" in line:
        assert found is None
    else:
        assert found == [texts[0].encode(), texts[2].encode()]
    assert items_of_list(path, 5, [0]) is None
    path.write_text(json.dumps([json.loads(text) for text in texts], indent=1))
    assert items_of_list(path, 3, [0]) is None
    write_list(path, texts)
    assert list(_values(path, {9, 4}, rows)) == [(4, json.loads(texts[0])), (9, {"id": "c"})]


def test_no_gallery_without_clusters(panel: Panel) -> None:
    assert gallery(panel, ArtifactShelf(None), Budget(LARGE)) is None


# --- two machines -------------------------------------------------------------------------------


def test_a_report_over_two_machines_says_what_is_not_here(
    filled: tuple[Path, list[Result]], tmp_path: Path
) -> None:
    """Of the other machine's runs there are scores, and no samples, subsets or pictures."""
    root, here = filled
    other = fill(tmp_path / "there", [result("el2n", s, (64.0, 50.0, 80.0)) for s in (0, 1)])
    (panel,) = panels([*here, *other])
    shown = exhibit(panel, ArtifactShelf(root))
    assert "the samples of attributes are not in this store (el2n)" in shown.pairs.why
    assert shown.overlaps.absent == ("el2n",)
    assert shown.samples is not None
    absent = {shown.samples["runs"][int(i)] for i in shown.samples["benchmarks"][0]["absent"]}
    assert absent == {"el2n, 20%, seed 0", "el2n, 20%, seed 1"}
    el2n = next(i for i, row in enumerate(panel.rows) if row.method == "el2n")
    full = next(i for i, row in enumerate(panel.rows) if row.method == "full")
    assert shown.pairs.overall[full, el2n].samples == 0
    html = build_report([*here, *other], tmp_path / "report", root)["html"].read_text()
    assert "Not on samples: the samples of attributes are not in this store (el2n)." in html
    assert "Not in this store: el2n." in html


def test_damaged_artifacts_are_no_end_of_the_report(
    filled: tuple[Path, list[Result]], tmp_path: Path
) -> None:
    root, runs = filled
    shutil.copytree(root, tmp_path / "store")
    broken = ["", '{"doc_id": 0, "score": ', '{"doc_id": "x"}\n']
    for content, path in zip(
        broken, sorted((tmp_path / "store").glob("eval/attributes-random*")), strict=False
    ):
        (path / "samples.jsonl").write_text(content)
    for path in (tmp_path / "store").glob("eval/counting-full*"):
        (path / "samples.jsonl").unlink()
    for pattern in (
        "data/*/images/*", "subset/coincide*/rows.npy", "clusters/*/assignment.npy",
        "data/*/benchmarks/counting/*", "subset/random*/manifest.json",
    ):  # fmt: skip
        for path in (tmp_path / "store").glob(pattern):
            path.write_bytes(b"damaged")
    build_report(runs, tmp_path / "report", tmp_path / "store")
    found = drill(panels(runs)[0], ArtifactShelf(tmp_path / "store"), Budget(LARGE))
    assert list(found["benchmarks"][0]["absent"].values()) == ["it has no samples with a score"] * 3
    assert len(found["benchmarks"][0]["samples"]) == SHOWN
    assert found["benchmarks"][1]["absent"]["0"] == "its samples are not in this store"


def test_the_same_store_gives_the_same_page(
    filled: tuple[Path, list[Result]], tmp_path: Path
) -> None:
    """In whichever order the results come, and however many processes make its two panels."""
    root, runs = filled
    runs = [*runs, *(replace(run, target="wide") for run in runs)]
    first = build_report(runs, tmp_path / "a", root, processes=1)
    second = build_report(runs[::-1], tmp_path / "b", root, processes=2)
    for ending in first:
        assert first[ending].read_bytes() == second[ending].read_bytes(), ending
