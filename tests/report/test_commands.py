"""``python -m coincide.compare | export | report``, as a user calls them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coincide import compare, export
from coincide.data.llava_json import read
from coincide.data.subset import resolve_rows, write_subset
from coincide.ledger.files import write_result
from coincide.ledger.result import Result
from coincide.report.__main__ import main as report
from tests.report.fixture import ledger, result

ROWS = 40
A = np.arange(0, 20)
B = np.arange(10, 30)


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    """Forty rows of two sources; every fourth is text-only."""
    records: list[dict[str, Any]] = []
    for i in range(ROWS):
        placeholder = "" if i % 4 == 3 else "<image>\n"
        said = [
            {"from": "human", "value": f"{placeholder}which {i}?"},
            {"from": "gpt", "value": "é"},
        ]
        image = {} if i % 4 == 3 else {"image": f"{i}.png"}
        records.append({"id": f"row_{i}", **image, "conversations": said})
    path = tmp_path / "train.json"
    path.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    return path


def subset(folder: Path, annotations: Path, rows: np.ndarray, **config: Any) -> Path:
    """A subset artifact."""

    def parity(record: Any) -> str:
        return "odd" if int(record["id"].removeprefix("row_")) % 2 else "even"

    root = annotations.parent
    dataset = read(annotations, root, name="d", source_of=parity, on_missing_image="blank")
    folder.mkdir(parents=True)
    chosen = [dataset.examples[row].source for row in rows]
    facts = {
        "composition": {s: chosen.count(s) for s in sorted(set(chosen))},
        "pool_composition": {"even": 20, "odd": 20}, "rows": ROWS,
    }  # fmt: skip
    write_subset(folder, dataset, rows, facts)
    needs = {"needs.0.data": config.pop("data", "d-000000000001")}
    manifest = {"config": config, "needs": needs, "facts": facts}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def pair(tmp_path: Path, annotations: Path) -> tuple[Path, Path]:
    store = tmp_path / "store" / "subset"
    a = subset(
        store / "a-00000000000a", annotations, A, method="coincide", params={"temperature": 0.1}
    )
    b = subset(
        store / "b-00000000000b", annotations, B, method="coincide", params={"temperature": 0.5}
    )
    return a, b


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return re.sub(r"[ \t]+", " ", capsys.readouterr().out)


# --- compare ------------------------------------------------------------------------------------


def test_two_artifacts(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main([*map(str, pair)]) == 0
    text = said(capsys)
    assert "10 rows in both, 10 in A alone, 10 in B alone" in text
    assert "Jaccard 0.333; 50.0% of the smaller is in the other, at random 50.0%" in text
    assert "even 10 10 20" in text
    assert "params.temperature 0.1 0.5" in text
    assert "method coincide" not in text  # it is the same in both


def test_as_json(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main([*map(str, pair), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["overlap"]["shared"] == 10
    assert found["sources"]["odd"] == [10, 10, 20]
    assert found["config"] == {"params.temperature": [0.1, 0.5]}


def test_two_lines_of_the_ledger_with_scores(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [
        result("coincide", 0, (70.0, 50.0, 85.0), keys={"subset": f"subset/{pair[0].name}"}),
        result("random", 1, (60.0, 50.0, 85.0), keys={"subset": f"subset/{pair[1].name}"}),
    ]
    paths = [str(write_result(tmp_path / "ledger", run)) for run in runs]
    assert compare.main([*paths, "--store", str(tmp_path / "store")]) == 0
    text = said(capsys)
    assert "10 rows in both" in text
    assert "attributes 70 60" in text
    assert "method.name coincide random" in text
    assert "hunter2" not in text
    assert compare.main([*paths, "--store", str(tmp_path / "nowhere")]) == 0
    assert "No overlap to be had: the subset of coincide-" in said(capsys)


def test_index_files_have_an_overlap_and_no_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "a.npy", A[::-1])
    np.save(tmp_path / "b.npy", B.astype(np.int32))
    assert compare.main([str(tmp_path / "a.npy"), str(tmp_path / "b.npy")]) == 0
    text = said(capsys)
    assert "10 rows in both" in text
    assert "configurations are the same, or not known" in text


def test_rows_of_other_data_have_no_overlap(
    pair: tuple[Path, Path], tmp_path: Path, annotations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = subset(tmp_path / "c", annotations, A, data="e-000000000002")
    assert compare.main([str(pair[0]), str(other)]) == 0
    text = said(capsys)
    assert (
        "No overlap to be had: they are of different data, d-000000000001 and e-00000000000" in text
    )
    assert "rows in both" not in text


@pytest.mark.parametrize("bad", ["nothing", "train.json", "."])
def test_what_is_no_subset_is_refused(
    bad: str, pair: tuple[Path, Path], annotations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = annotations.parent / bad
    assert compare.main([str(pair[0]), str(path)]) == 2
    error = capsys.readouterr().err
    assert "error:" in error
    assert str(path) in error


# --- export -------------------------------------------------------------------------------------


def exported(pair: tuple[Path, Path], form: str, out: Path) -> Path:
    assert export.main([str(pair[1]), "--as", form, "--out", str(out)]) == 0
    return out


def test_llava_json_reads_back_as_the_same_rows(
    pair: tuple[Path, Path], tmp_path: Path, annotations: Path
) -> None:
    path = exported(pair, "llava", tmp_path / "out" / "x.json")
    whole = json.loads(annotations.read_text())
    assert json.loads(path.read_text()) == [whole[i] for i in B]
    dataset = read(
        annotations, tmp_path, name="d", source_of=lambda _: "", on_missing_image="blank"
    )
    for form, name in (("llava", "x.json"), ("npy", "x.npy"), ("ids", "i.json")):
        rows = resolve_rows(exported(pair, form, tmp_path / name), dataset.examples)
        assert rows.tolist() == B.tolist()


def test_sharegpt_and_messages(pair: tuple[Path, Path], tmp_path: Path) -> None:
    shared = json.loads(exported(pair, "sharegpt", tmp_path / "s.json").read_text())
    question = {"from": "human", "value": "<image>\nwhich 10?"}
    conversation = [question, {"from": "gpt", "value": "é"}]
    assert shared[0] == {"id": "row_10", "images": ["10.png"], "conversations": conversation}
    assert shared[1]["images"] == []
    messages = json.loads(exported(pair, "messages", tmp_path / "m.json").read_text())
    assert messages[0]["messages"][0] == {"role": "user", "content": "<image>\nwhich 10?"}
    for record, other in zip(shared, messages, strict=True):
        assert record["images"] == other["images"]


def test_the_index_file_is_int64_and_needs_no_pickle(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    found = np.load(exported(pair, "npy", tmp_path / "x.npy"), allow_pickle=False)
    assert found.dtype == np.int64
    assert found.tolist() == B.tolist()


def test_a_result_names_its_subset(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = result("coincide", 0, (1.0, 2.0, 3.0), keys={"subset": f"subset/{pair[0].name}"})
    line = str(write_result(tmp_path / "ledger", run))
    words = [line, "--as", "ids", "--out", str(tmp_path / "ids.json")]
    assert export.main([*words, "--store", str(tmp_path / "store")]) == 0
    assert json.loads((tmp_path / "ids.json").read_text())[0] == "row_0"
    assert export.main([*words, "--store", str(tmp_path / "nowhere")]) == 2
    assert "is not in the store" in capsys.readouterr().err


# --- ledgers of two machines ----------------------------------------------------------------------


def test_a_report_over_two_ledgers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What both have counts once; a run made twice with other scores is noted with both."""
    again = replace(ledger()[4], created="2027-01-01T00:00:00Z", scores=ledger()[5].scores)
    for run in ledger():
        write_result(tmp_path / "here", run)
    for run in [*ledger()[:2], again, result("el2n", 0, (50.0, 40.0, 60.0))]:
        write_result(tmp_path / "there" / "sub", run)
    words = [str(tmp_path / "here"), str(tmp_path / "there"), "--out", str(tmp_path / "out")]
    assert report(words) == 0
    assert "el2n" in capsys.readouterr().out
    (panel,) = json.loads((tmp_path / "out" / "report.json").read_text())
    seeds = {(row["method"], row["budget"]): row["seeds"] for row in panel["rows"]}
    assert seeds["full", 1.0] == [0, 1]
    assert seeds["el2n", 0.2] == [0]
    notes = " ".join(note["text"] for note in panel["notes"])
    assert (
        "random, 800 examples, seed 0 was run twice with other scores (attributes 60, then 64"
        in notes
    )
    assert notes.count("was run twice") == 1


def test_a_missing_ledger_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report([str(tmp_path / "none")]) == 2
    assert "No such ledger" in capsys.readouterr().err


def test_results_keep_costs_and_hardware_and_old_files_still_read(tmp_path: Path) -> None:
    from coincide.ledger.files import read_ledger
    from coincide.ledger.result import Cost

    run = replace(
        result("random", 0, (1.0, 2.0, 3.0)),
        costs=(Cost("train", "adapter/x", 5.5, 1e9, 8),),
        hardware={"cores": 2, "gpus": ["H100"]},
        config={"seed": 0},
    )
    path = write_result(tmp_path, run)
    assert read_ledger(tmp_path) == [run]
    record = json.loads(path.read_text())
    for name in ("costs", "hardware", "sha256"):
        del record[name]
    for score in record["scores"]:
        del score["samples"]
    path.write_text(json.dumps(record))
    (old,) = read_ledger(tmp_path)
    assert isinstance(old, Result)
    assert old.costs == ()
