"""Datasets on this machine: where they are looked for, what their content is, and how one comes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coincide.schema import UserError
from coincide.store import Store
from eval import mirror, process
from eval.mirror import content, data_files, fetch, find, requirement, view
from eval.stage import evaluate
from tests.eval import hub
from tests.eval.bench import samples, scores
from tests.eval.hub import ORGANISATION, write
from tests.eval.real import steps, suite

GQA = f"{ORGANISATION}/GQA"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folders of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    return tmp_path


def hub_snapshot(home: Path, name: str, revision: str) -> Path:
    """What the hub's library keeps: a folder per commit, and the name of the newest."""
    cached = home / "hf" / "hub" / f"datasets--{ORGANISATION}--{name}"
    (cached / "refs").mkdir(parents=True, exist_ok=True)
    (cached / "refs" / "main").write_text(revision)
    folder = cached / "snapshots" / revision
    folder.parent.mkdir(exist_ok=True)
    write(home / "made", name, hub.DATASETS[name]()).rename(folder)
    return folder


def test_the_mirror_comes_before_the_hubs_cache(home: Path) -> None:
    assert find(GQA, home / "mirror") is None and find(GQA, None) is None
    snapshot = hub_snapshot(home, "GQA", "abc123")
    place = find(GQA, home / "mirror")
    assert place and (place.folder, content(place)) == (snapshot, "abc123")
    folder = write(home / "mirror", "GQA", hub.gqa())
    place = find(GQA, home / "mirror")
    assert place and place.folder == folder and len(content(place)) == 64


def test_an_empty_or_half_fetched_folder_is_no_dataset(home: Path) -> None:
    folder = home / "mirror" / GQA
    (folder / ".cache").mkdir(parents=True)
    (folder / ".cache" / "x.parquet").touch()
    (folder / "x.parquet.incomplete").touch()
    assert list(data_files(folder)) == [] and find(GQA, home / "mirror") is None


def test_content_is_every_byte_and_quick_the_second_time(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(home / "mirror", "GQA", hub.gqa())
    place = find(GQA, home / "mirror")
    assert place
    before = content(place)
    copied = mirror.Place(folder.rename(home / "elsewhere"), None)
    assert content(copied) == before, "where it lies does not matter"
    file = next(iter(data_files(copied.folder)))
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    assert content(copied) != before
    monkeypatch.setattr(mirror, "sha256_file", None)
    assert content(copied) != before, "nothing is hashed again"


def test_a_view_follows_its_dataset(home: Path) -> None:
    write(home / "mirror", "GQA", hub.gqa())
    place = find(GQA, home / "mirror")
    assert place
    root = view(GQA, place, "d1" * 32, home / "cache")
    assert (root / GQA / "README.md").is_file()
    other = mirror.Place(write(home / "other", "GQA", hub.gqa()), None)
    assert view(GQA, other, "d1" * 32, home / "cache") == root
    assert (root / GQA).readlink() == other.folder
    assert view(GQA, other, "d2" * 32, home / "cache") != root


def test_requirements_look_and_do_not_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "sha256_file", None)
    write(home / "mirror", "DocVQA", hub.docvqa())
    chosen = suite("unseen", home / "mirror", "docvqa infovqa ai2d")
    found = {r.name: r for r in chosen.requirements()}
    shared = found[f"dataset {ORGANISATION}/DocVQA (docvqa, infovqa)"]
    assert shared.met and shared.fetch is None
    absent = found[f"dataset {ORGANISATION}/ai2d (ai2d)"]
    assert not absent.met and absent.fatal and absent.fetch is not None
    assert f"copy the dataset's folder to {home / 'mirror' / ORGANISATION / 'ai2d'}" in (
        absent.remedy
    )
    assert requirement(GQA, ["gqa"], None).remedy == (
        f"Set eval.mirror to the folder that holds {GQA}."
    )


def test_a_fetch_that_breaks_off_leaves_no_dataset(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    calls: list[dict[str, Any]] = []

    def download(name: str, *, repo_type: str, local_dir: Path) -> None:
        calls.append({"name": name, "repo_type": repo_type})
        write(local_dir.parent.parent / "made", "GQA", hub.gqa())
        local_dir.mkdir(parents=True, exist_ok=True)
        (local_dir / "part.parquet").touch()
        if len(calls) == 1:
            raise OSError("hf_SECRET at https://hub.example: connection reset")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(UserError, match=r"GQA could not be fetched: OSError\.") as error:
        fetch(GQA, home / "mirror")
    assert "SECRET" not in str(error.value)
    assert find(GQA, home / "mirror") is None
    fetch(GQA, home / "mirror")
    assert calls == [{"name": GQA, "repo_type": "dataset"}] * 2
    assert find(GQA, home / "mirror")


def test_a_missing_dataset_is_planned_and_named_when_it_is_needed(store: Store, home: Path) -> None:
    [step] = steps(store, suite("paper", home / "mirror", "gqa"))
    assert step.config["content"] is None
    where = home / "mirror" / GQA
    with pytest.raises(UserError, match=f"benchmark gqa: dataset {GQA} is neither in {where} nor"):
        evaluate(store, [step])


def test_content_is_in_the_key_and_speed_is_not(store: Store, home: Path) -> None:
    def key(**changes: Any) -> str:
        return steps(store, suite("paper", home / "mirror", "gqa", **changes))[0].key

    without = key()
    tables = hub.gqa()
    write(home / "mirror", "GQA", tables)
    first = key()
    assert first != without
    assert key(processes=2, threads=3) == first
    tables[0].rows[0]["answer"] = "blue"
    write(home / "mirror", "GQA", tables)
    assert key() != first
    # sums in half precision depend on the batch, so there it belongs to the protocol
    assert key(batch_size=3) != key() and key(dtype="float32") != key()
    assert key(batch_size=3, dtype="float32") == key(dtype="float32")


@pytest.mark.slow
def test_new_data_at_an_old_path_is_asked_anew(
    store: Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In processes of their own, with whatever caches the libraries keep."""
    monkeypatch.setattr(process, "WORKER", "tests.eval.scripted")
    monkeypatch.setenv("SCRIPT", "right")
    for word in ("red", "violet"):
        tables = hub.gqa()
        tables[0].rows[0] |= {"answer": word, "question": f"Is it {word}?"}
        write(home / "mirror", "GQA", tables)
        [step] = steps(store, suite("paper", home / "mirror", "gqa"))
        [artifact] = evaluate(store, [step])
        assert scores(artifact)["accuracy"].value == 100.0
        assert samples(artifact)[0]["target"] == word
        assert samples(artifact)[0]["question"].startswith(f"Is it {word}?")
    result = json.loads((artifact.path / "result.json").read_text())
    assert result["scores"][0]["protocol"].endswith("batch=1")
