"""The ledger: round trips, names, merging, refusals, and no secret in it."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coincide.ledger.files import file_name, presentable, read_ledger, write_result
from coincide.ledger.packed import pack
from coincide.ledger.result import Score
from coincide.report.redact import redact
from coincide.schema import UserError
from tests.report.fixture import ledger, result


def test_round_trip(tmp_path: Path) -> None:
    written = [replace(r, config={"train": {"lr": 0.002}, "layers": [1, 2]}) for r in ledger()]
    for item in written:
        write_result(tmp_path, item)
    found = read_ledger(tmp_path)
    assert sorted(found, key=file_name) == sorted(written, key=file_name)


def test_the_name_says_what_it_is_and_not_where_the_store_lies() -> None:
    one = result("coincide", 3, (1.0, 2.0, 3.0), keys={"subset": "store/subset/x-0123456789ab"})
    assert file_name(one).startswith("coincide-demo-tiny-b0.2-s3-")
    moved = replace(one, keys={"subset": "/other/store/subset/renamed-0123456789ab"})
    assert file_name(moved) == file_name(one)
    other = replace(one, keys={"subset": "store/subset/x-ba9876543210"})
    assert file_name(other) != file_name(one)


def test_a_run_of_nested_noise_does_not_replace_that_of_the_table(tmp_path: Path) -> None:
    """``seed=0 train.seed=0`` has the artifacts of ``seed=0``, and a row of its own."""
    one = result("random", 0, (1.0, 2.0, 3.0))
    nested = replace(one, config={**one.config, "train": {"name": "demo", "seed": 0}})
    plain = replace(one, config={**one.config, "train": {"name": "demo", "seed": None}})
    assert file_name(plain) == file_name(one)
    for item in (plain, nested):
        write_result(tmp_path, item)
    assert {r.config["train"]["seed"] for r in read_ledger(tmp_path)} == {None, 0}


def test_a_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    path = write_result(tmp_path, result("../../etc/x", 0, (1.0, 2.0, 3.0)))
    assert path.parent == tmp_path
    assert path.name.startswith("etc_x-")


def test_ledgers_merge_by_copying(tmp_path: Path) -> None:
    for item in ledger():
        write_result(tmp_path / ("here" if item.method == "full" else "there"), item)
    shutil.copytree(tmp_path / "there", tmp_path / "here" / "from_there")
    assert len(read_ledger(tmp_path / "here")) == len(ledger())


def test_no_folder_is_an_empty_ledger(tmp_path: Path) -> None:
    assert read_ledger(tmp_path / "none") == []


def _drop(record: dict[str, Any]) -> None:
    del record["seed"]


def _extra(record: dict[str, Any]) -> None:
    record["colour"] = "red"


def _text_score(record: dict[str, Any]) -> None:
    record["scores"][1]["value"] = "97.4"


def _bad_table(record: dict[str, Any]) -> None:
    record["composition"] = {"vqa": 1.5}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_drop, "lacks the field 'seed'"),
        (_extra, "unknown field 'colour'"),
        (_text_score, r"scores\[1\].value is '97.4'; expected a number or null"),
        (_bad_table, r"composition.vqa is 1.5; expected a whole number"),
    ],
)
def test_a_malformed_file_is_named(tmp_path: Path, spoil: Any, says: str) -> None:
    path = write_result(tmp_path, ledger()[0])
    record = json.loads(path.read_text())
    spoil(record)
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=rf"{path.name}.*{says}"):
        read_ledger(tmp_path)


def test_a_figure_that_was_changed_is_refused_by_file(tmp_path: Path) -> None:
    """In a folder and packed; laid out anew, or with the hash removed, it is read."""
    path = write_result(tmp_path, ledger()[0])
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record, indent=3))
    assert read_ledger(tmp_path)[0].scores == ledger()[0].scores
    record["scores"][0]["value"] += 0.01
    path.write_text(json.dumps(record))
    (tmp_path / "packed").mkdir()
    pack(tmp_path, tmp_path / "packed" / "all.jsonl.gz")
    for place in (path, tmp_path / "packed"):
        with pytest.raises(UserError, match=r"(?s)(\.json|all\.jsonl\.gz:1).*not what was written"):
            read_ledger(place)
    del record["sha256"]
    path.write_text(json.dumps(record))
    assert read_ledger(path)[0].scores[0].value == record["scores"][0]["value"]


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"a": NaN}', "\xff", "[" * 100_000])
def test_what_is_no_result_at_all_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "odd.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"odd.json is not a result"):
        read_ledger(tmp_path)


def test_what_is_no_file_is_refused_by_name(tmp_path: Path) -> None:
    for spoil in (Path.mkdir, lambda path: path.symlink_to("nowhere"), os.mkfifo):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        spoil(folder / "odd.json")
        with pytest.raises(UserError, match=r"odd.json cannot be read as a result"):
            read_ledger(folder)


def test_a_score_that_is_no_number_is_not_written(tmp_path: Path) -> None:
    broken = replace(ledger()[0], scores=(Score("pope", "accuracy", float("nan"), 10),))
    with pytest.raises(UserError, match="pope/accuracy of full is nan"):
        write_result(tmp_path, broken)
    assert list(tmp_path.iterdir()) == []


SECRETS = {
    "api_key": "aaa-secret", "hfToken": "bbb-secret", "judge": {"password": "ccc-secret"},
    "overrides": ["judge.api_key=ddd-secret", "+eval.token=eee-secret"],
    "mirror": "https://user:fff-secret@host/x?sig=1&access_token=ggg-secret",
    "note": "with hf_hhhsecrethhhsecret in it",
}  # fmt: skip
KEPT = {"max_tokens": 16, "monkey": "yes", "method": {"clusters": 80}, "overrides": ["seed=1"]}


def test_secrets_are_not_written(tmp_path: Path) -> None:
    path = write_result(tmp_path, replace(ledger()[0], config=SECRETS))
    assert "secret" not in path.read_text()
    assert redact(KEPT) == KEPT


def test_what_is_shown_has_no_control_characters() -> None:
    odd = replace(ledger()[0], method="a\x1b[31mb\u202ec\ud800", config={"x\n": ["\x00y"]})
    shown = presentable(odd)
    assert shown.method == "a [31mb c "
    assert shown.config == {"x ": [" y"]}


def test_a_packed_ledger_is_read_as_its_folder(tmp_path: Path) -> None:
    for each in ledger():
        write_result(tmp_path / "many", each)
    file = tmp_path / "one" / "ledger.jsonl.gz"
    file.parent.mkdir()
    assert pack(tmp_path / "many", file) == len(list((tmp_path / "many").iterdir()))
    before = file.read_bytes()
    pack(tmp_path / "many", file)
    assert file.read_bytes() == before
    assert read_ledger(file) == read_ledger(tmp_path / "one") == read_ledger(tmp_path / "many")
    assert read_ledger([tmp_path / "many", file]) == read_ledger(file)  # each once


def test_a_damaged_packed_ledger_is_named(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl.gz"
    file.write_bytes(b"PK")
    with pytest.raises(UserError, match=r"ledger.jsonl.gz is no packed ledger"):
        read_ledger(file)
    file.write_bytes(gzip.compress(b"{}\n", mtime=0))
    with pytest.raises(UserError, match=r"ledger.jsonl.gz:1 is not a result of the ledger"):
        read_ledger(tmp_path)
    with pytest.raises(UserError, match="holds no result"):
        pack(tmp_path / "none", file)
