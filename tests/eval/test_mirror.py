"""Datasets on this machine: where they are looked for, what their content is, and how one comes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from coincide.schema import UserError
from coincide.store import Store
from eval import made as small
from eval import mirror, process
from eval.mirror import Place, content, fetch, requirement, view
from eval.stage import evaluate
from tests.eval import hub
from tests.eval.bench import samples, scores
from tests.eval.hub import ORGANISATION, write
from tests.eval.real import steps, suite

GQA = f"{ORGANISATION}/GQA"
DOCVQA = f"{ORGANISATION}/DocVQA"
SPLITS = {"testdev_balanced_instructions": ["testdev"], "testdev_balanced_images": ["testdev"]}


def find(dataset: str, root: Path | None) -> Place | None:
    return mirror.find(dataset, SPLITS, root)


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
    folder = write(home / "mirror", "GQA", hub.gqa())
    [images] = folder.glob("testdev_balanced_images/*")
    images.rename(images.with_name(f"{images.name}.incomplete"))
    assert find(GQA, home / "mirror") is None
    (images.parent / ".cache").mkdir()
    images.with_name(f"{images.name}.incomplete").rename(images.parent / ".cache" / images.name)
    assert find(GQA, home / "mirror") is None
    (images.parent / ".cache" / images.name).rename(images)
    assert find(GQA, home / "mirror")
    images.rename(images.with_name("testdev-00000-of-00002.parquet"))
    assert find(GQA, home / "mirror") is None, "one of two shards"


def test_content_is_every_byte_and_quick_the_second_time(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(home / "mirror", "GQA", hub.gqa())
    place = find(GQA, home / "mirror")
    assert place
    before = content(place)
    copied = Place(folder.rename(home / "elsewhere"), None, place.files)
    assert content(copied) == before, "where it lies does not matter"
    file = copied.folder / copied.names[0]
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    assert content(copied) != before
    monkeypatch.setattr(mirror, "sha256_file", None)
    assert content(copied) != before, "nothing is hashed again"


def test_only_the_wanted_splits_count(home: Path) -> None:
    """Neither the digest, nor what the libraries convert, nor presence asks for others."""
    root = home / "mirror"
    folder = write(root, "DocVQA", hub.docvqa())
    place = mirror.find(DOCVQA, {"DocVQA": ["validation"]}, root)
    assert place and place.names == ["DocVQA/validation-00000-of-00001.parquet"]
    before = content(place)
    seen = view(DOCVQA, place, before, home / "cache") / DOCVQA
    assert sorted(str(p.relative_to(seen)) for p in seen.rglob("*.*")) == [
        *place.names, "README.md",
    ]  # fmt: skip
    assert "InfographicVQA" not in (seen / "README.md").read_text()
    shutil.rmtree(folder / "InfographicVQA")
    again = mirror.find(DOCVQA, {"DocVQA": ["validation"]}, root)
    assert again and content(again) == before
    assert mirror.find(DOCVQA, {"InfographicVQA": ["validation"]}, root) is None


@pytest.mark.parametrize("text", ["", "no front matter", "---\n: [\n---\n", "---\na: b\n---\n"])
def test_a_card_that_declares_nothing_means_the_whole_folder(home: Path, text: str) -> None:
    folder = write(home / "mirror", "GQA", hub.gqa())
    (folder / "README.md").write_text(text)
    place = find(GQA, home / "mirror")
    assert place and len(place.names) == 2 and list(place.files) == [("", "")]
    seen = view(GQA, place, content(place), home / "cache") / GQA
    assert (seen / "README.md").read_text() == text


def test_a_view_follows_its_dataset(home: Path) -> None:
    write(home / "mirror", "GQA", hub.gqa())
    place = find(GQA, home / "mirror")
    assert place
    root = view(GQA, place, "d1", home / "cache")
    other = replace(place, folder=write(home / "other", "GQA", hub.gqa()))
    assert view(GQA, other, "d1", home / "cache") == root
    assert {(root / GQA / n).readlink() for n in other.names} == {
        other.folder / n for n in other.names
    }
    assert view(GQA, other, "d2", home / "cache") != root


def test_requirements_look_and_do_not_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "sha256_file", None)
    write(home / "mirror", "DocVQA", hub.docvqa())
    chosen = suite("unseen", home / "mirror", "docvqa infovqa ai2d")
    found = {r.name: r for r in chosen.requirements()}
    shared = found[f"dataset {ORGANISATION}/DocVQA (docvqa, infovqa)"]
    assert shared.met and shared.fetch is None
    absent = found[f"dataset {ORGANISATION}/ai2d (ai2d)"]
    assert not absent.met and absent.fatal and absent.fetch is not None
    assert str(home / "mirror" / ORGANISATION / "ai2d") in absent.found
    assert "python -m coincide.prefetch" in absent.remedy
    assert requirement(GQA, SPLITS, ["gqa"], None).remedy == (
        f"Set eval.mirror to the folder that holds {GQA}."
    )


class Hub:
    """In the place of the hub's client: copies what the patterns allow, and may break off."""

    def __init__(self, source: Path) -> None:
        self.source, self.asked, self.fails = source, [], 0

    def snapshot_download(
        self, name: str, *, repo_type: str, local_dir: Path, allow_patterns: list[str] | None
    ) -> None:
        assert (name, repo_type) == (DOCVQA, "dataset")
        self.asked.append(allow_patterns)
        for path in sorted(p for p in self.source.rglob("*") if p.is_file()):
            relative = str(path.relative_to(self.source))
            if allow_patterns is None or any(fnmatch(relative, p) for p in allow_patterns):
                if self.fails and path.suffix == ".parquet":
                    self.fails -= 1
                    raise OSError("hf_SECRET at https://hub.example: connection reset")
                (local_dir / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, local_dir / relative)


def test_a_fetch_takes_the_wanted_splits_and_resumes(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    there = Hub(write(home / "there", "DocVQA", hub.docvqa()))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", there.snapshot_download)
    chosen = suite("unseen", home / "mirror", "infovqa")
    [wanted] = chosen.requirements()
    assert not wanted.met and wanted.fetch is not None
    there.fails = 1
    with pytest.raises(UserError, match=r"DocVQA could not be fetched: OSError\.") as error:
        wanted.fetch()
    assert "SECRET" not in str(error.value)
    assert not chosen.requirements()[0].met
    wanted.fetch()
    assert there.asked[-2:] == [["README.md"], ["InfographicVQA/validation-*"]]
    assert chosen.requirements()[0].met
    assert not suite("unseen", home / "mirror", "docvqa").requirements()[0].met
    (there.source / "README.md").write_text("")
    shutil.rmtree(home / "mirror")
    wanted.fetch()
    assert there.asked[-1] is None, "the whole where the card does not tell"


def test_a_fetch_that_lacks_files_says_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    there = Hub(write(home / "there", "DocVQA", hub.docvqa()))
    shutil.rmtree(there.source / "DocVQA")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", there.snapshot_download)
    with pytest.raises(UserError, match="lacks files of the splits DocVQA/validation"):
        fetch(DOCVQA, {"DocVQA": ["validation"]}, home / "mirror")


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


POPE, TEST = f"{ORGANISATION}/POPE", {"default": ["test"]}


def whole(home: Path, *names: str) -> Path:
    """POPE, its one file under each of ``names``; the folder."""
    folder = write(home / "mirror", "POPE", small.pope())
    [file] = folder.glob("default/*.parquet")
    content = file.read_bytes()
    file.unlink()
    for name in names:
        (folder / "default" / name).write_bytes(content)
    return folder


def why(home: Path) -> str:
    """What a run, the doctor and prefetch are told of POPE; empty where it is whole."""
    wanted = requirement(POPE, TEST, ["pope"], home / "mirror")
    assert wanted.met == bool(mirror.find(POPE, TEST, home / "mirror"))
    return "" if wanted.met else wanted.found


HASHED = "test-0000{}-of-00002-0123456789abcde{}.parquet"


def test_shards_are_counted_with_a_hash_behind_them_too(home: Path) -> None:
    folder = whole(home, HASHED.format(0, 1))
    assert "default/test-00001-of-00002 is missing (1 of 2 shards)" in why(home)
    shutil.rmtree(folder)
    whole(home, HASHED.format(0, 1), HASHED.format(1, 2))
    assert why(home) == ""
    (folder / "default" / HASHED.format(0, 3)).write_bytes(b"")
    assert "has a shard of 2 more than once" in why(home)
    shutil.rmtree(folder)
    whole(home, "test-00000-of-00001.parquet", HASHED.format(0, 1))
    assert "is there cut into 1 and into 2" in why(home)
    for names, lost in {"test-001-of-2 test-002-of-2": "", "test-0-of-2": "test-1-of-2",
                        "test-2-of-3 test-3-of-3": "test-1-of-3"}.items():  # fmt: skip
        shutil.rmtree(folder)
        whole(home, *(f"{name}.parquet" for name in names.split()))
        assert f"default/{lost} is missing" in why(home) if lost else why(home) == ""


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda file: file[: len(file) // 2], "is cut off after"),
        (lambda file: file[:-1], "is cut off after"),
        (lambda file: file[:8] + file[-8 - int.from_bytes(file[-8:-4], "little") :],
         "lacks bytes: its data end at"),
        (lambda file: b"", "is a file of zero bytes"),
        (lambda file: b"version https://git-lfs.github.com/spec/v1\noid x\n", "git lfs pull"),
        (lambda file: b"<!DOCTYPE html>", "is no parquet file (it begins with b'<!DOCTYP')"),
        (lambda file: file[:4] + b"\x15" * 40 + (40).to_bytes(4, "little") + b"PAR1", "footer"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_whole_is_named(home: Path, damage: Any, says: str) -> None:
    folder = whole(home, "test-00000-of-00001.parquet")
    [file] = folder.glob("default/*.parquet")
    file.write_bytes(damage(file.read_bytes()))
    assert str(file) in why(home) and says in why(home)
    with pytest.raises(UserError, match=r"is not whole: .*test-00000-of-00001\.parquet"):
        raise UserError(mirror.missing_message(POPE, TEST, home / "mirror"))
    (folder / "README.md").write_text("")
    assert says in why(home), "where the card does not say which files they are"


def test_rows_are_those_that_the_card_says(home: Path) -> None:
    folder = whole(home, "test-00000-of-00001.parquet")
    card = (folder / "README.md").read_text()
    info = "dataset_info:\n  splits:\n  - {name: test, num_bytes: 5, num_examples: %d}\n---"
    (folder / "README.md").write_text(card.replace("\n---", "\n" + info % 12))
    assert why(home) == ""
    (folder / "README.md").write_text(card.replace("\n---", "\n" + info % 9000))
    assert "hold 12 rows, and README.md says 9,000" in why(home)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda card: "\ufeff" + card, ""),
        (lambda card: card.replace("- config_name: default\n  data_files", "- data_files"), ""),
        (lambda card: card.replace("config_name: default", "data_dir: .\n  config_name: default"),
         ""),
        (lambda card: card.replace("path: default", "path: /data/default"), "names '/data/default"),
        (lambda card: card.replace("path: default", "path: ../POPE/default"), "names '../POPE"),
        (lambda card: card.replace("path: default", "path: hf://x"), "below the folder"),
        (lambda card: card.replace("path: default", "path: elsewhere"), "parquet file elsewhere"),
        (lambda card: card.replace("path: default/test-*", "path: [default/*, default/b.parquet]"),
         "no parquet file default/b.parquet, which README.md declares"),
        (lambda card: card.replace("path: default/test-*", "path: '**test'"), "file **test, which"),
        (lambda card: card.replace("path: default/test-*", "path: ''"), "which README.md declares"),
    ],
)  # fmt: skip
def test_cards_of_any_kind(home: Path, change: Any, says: str) -> None:
    folder = whole(home, "test-00000-of-00001.parquet")
    card = folder / "README.md"
    card.write_text(change(card.read_text()), encoding="utf-8")
    assert says in why(home) if says else why(home) == ""
    if not says:
        place = mirror.find(POPE, TEST, home / "mirror")
        assert place and list(place.files) == [("default", "test")]
        seen = view(POPE, place, content(place), home / "cache") / POPE
        assert "config_name: default" in (seen / "README.md").read_text()


def test_a_card_that_is_no_text(home: Path) -> None:
    folder = whole(home, "test-00000-of-00001.parquet")
    (folder / "README.md").write_bytes(b"---\nconfigs: \xff\xfe\n---\n")
    assert "README.md is no UTF-8 text" in why(home)
