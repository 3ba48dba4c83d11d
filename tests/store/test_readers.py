"""Who reads artifacts outside of a run: report, export, compare, scores and wandb, under damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coincide import compare, export, scores
from coincide.ledger.evidence import ArtifactShelf
from coincide.store import Build, Step, Store
from coincide.system.files import write_json
from coincide.terminal.redact import REMOVED
from tests.report.fixture import result
from tests.store.things import cut, flip
from track.contents import _intact


def chosen(build: Build) -> dict[str, Any]:
    """The files of a subset, as far as readers look at them."""
    np.save(build.dir / "rows.npy", np.arange(40, dtype=np.int64))
    row = {"id": "0", "conversations": [{"from": "human", "value": "a"},
                                        {"from": "gpt", "value": "b"}]}  # fmt: skip
    write_json(build.dir / "subset.json", [row] * 40)
    write_json(build.dir / "ids.json", ["0"] * 40)
    write_json(build.dir / "facts.json", {})
    return {"rows": 200, "composition": {"all": 40}, "pool_composition": {"all": 200}}


def judged(build: Build) -> None:
    import pandas as pd

    pd.DataFrame({"row": [0], "id": ["0"], "source": ["a"], "score": [1.0]}).to_parquet(
        build.dir / "scores.parquet"
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


SUBSET = Step("subset", "mine", 1, {"k": 40}, chosen)


def by_compare(folder: Path) -> int:
    return compare.main([str(folder), str(folder)])


def by_export(folder: Path) -> int:
    return export.main([str(folder), "--as", "npy", "--out", str(folder.parents[2] / "out.npy")])


def by_export_of_texts(folder: Path) -> int:
    return export.main([str(folder), "--as", "llava", "--out", str(folder.parents[2] / "out.json")])


HARMS = {
    "a byte": lambda folder: flip(folder / "rows.npy"),
    "cut": lambda folder: cut(folder / "rows.npy"),
    "manifest cut": lambda folder: cut(folder / "manifest.json"),
    "manifest edited": lambda folder: (folder / "manifest.json").write_text(
        (folder / "manifest.json").read_text().replace('"all": 40', '"all": 41')
    ),
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("reader", [by_compare, by_export, by_export_of_texts])
def test_what_is_damaged_is_refused_by_name_and_nothing_is_written(
    store: Store, harm: str, reader: Callable[[Path], int], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = store.ensure(SUBSET).path
    assert reader(folder) == 0
    written = list(folder.parents[2].glob("out*"))
    for path in written:
        path.unlink()
    HARMS[harm](folder)
    assert reader(folder) == 2
    assert f"subset/{folder.name}" in capsys.readouterr().err
    assert not list(folder.parents[2].glob("out*"))


@pytest.mark.parametrize("harm", HARMS)
def test_a_report_and_wandb_leave_it_out_with_a_word(
    store: Store, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = store.ensure(SUBSET).path
    named = result("random", 0, (80.0, 60.0, 90.0), keys={"subset": f"subset/{folder.name}"})
    shelf = ArtifactShelf(store.root)
    assert shelf.file(folder, "rows.npy") and shelf.subset(named) and _intact(folder)
    HARMS[harm](folder)
    assert ArtifactShelf(store.root).file(folder, "rows.npy") is None
    assert not _intact(folder)
    told = capsys.readouterr().out
    assert f"report: subset/{folder.name}" in told and f"track: subset/{folder.name}" in told
    if harm.startswith("manifest"):
        assert ArtifactShelf(store.root).found({"subset": f"subset/{folder.name}"}) == {}
        assert ArtifactShelf(store.root).manifest(folder) == {}


def test_damaged_scores_are_refused_by_name(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = store.ensure(Step("scores", "mine", 1, {}, judged)).path
    flip(folder / "scores.parquet")
    monkeypatch.setattr("sys.argv", ["scores", str(folder), "--out", str(store.root / "out")])
    assert scores.main() == 2
    assert f"scores/{folder.name}" in capsys.readouterr().err


def test_no_credential_is_in_a_manifest_and_the_key_is_the_same(store: Store) -> None:
    secret = "Qz7" + "kW9x" * 5
    url = f"https://me:{secret}@host/v1?sig={secret}"
    config = {"judge": {"url": url, "api_key": secret}, "words": [f"judge.token={secret}", "k=4"]}
    wanted = replace(SUBSET, config=config, build=lambda b: {**chosen(b), "from": url})
    made = store.ensure(wanted)
    text = (made.path / "manifest.json").read_text()
    assert secret not in text
    assert json.loads(text)["config"] == {
        "judge": {"url": "https://host/v1?sig="},
        "words": ["k=4"],
    }
    assert made.facts["from"] == "https://host/v1?sig=" and REMOVED not in made.name
    assert Store(store.root).find(wanted) is not None
    assert made.manifest["key"] == wanted.key
