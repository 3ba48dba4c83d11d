"""Damage to an artifact: found before it is read, repaired or refused by name."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coincide.schema import UserError
from coincide.store import Build, DamagedArtifact, Step, Store, hashes, note_done, sealed
from coincide.store import artifact as opening
from coincide.store.__main__ import main as check
from coincide.system.files import write_json
from tests.store.things import cut, flip, numbers, run_together, step


def test_a_flipped_byte_rebuilds_that_file_alone(tmp_path: Path) -> None:
    store, log = Store(tmp_path / "store"), tmp_path / "log"
    wanted = step(3, log=str(log))
    before = store.ensure(wanted)
    victim = before.path / "part-2.json"
    good = victim.read_bytes()
    victim.write_bytes(good.replace(b"3", b"4"))
    log.unlink()
    repaired = Store(tmp_path / "store").verify(wanted)
    assert log.read_text().split() == ["2"]
    assert (repaired.path / "part-2.json").read_bytes() == good


def of_another(path: Path) -> None:
    path.write_text(json.dumps(sealed({**json.loads(path.read_text()), "key": "f" * 64})))


def edited(path: Path) -> None:
    path.write_text(path.read_text().replace('"parts": 4', '"parts": 5'))


@pytest.mark.parametrize("damage", [Path.unlink, cut, Path.write_bytes, of_another, edited])
def test_what_has_no_sound_manifest_is_set_aside_and_built_once(
    tmp_path: Path, damage: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    store, log = Store(tmp_path / "s"), tmp_path / "log"
    wanted, other = step(1, log=str(log)), step(2)
    artifact = store.ensure(wanted)
    store.ensure(other)
    if damage is Path.write_bytes:
        (artifact.path / "manifest.json").write_bytes(b"")
    else:
        damage(artifact.path / "manifest.json")
    log.unlink()
    again = Store(tmp_path / "s")
    assert again.find(wanted) is None
    assert "built again" in again.explain(wanted)
    assert len(list(again.manifests("things"))) >= 1  # who only looks at the kind goes on
    made = again.ensure(wanted)
    assert log.read_text().split() == ["0", "1", "2", "3"]
    assert "moved to" in capsys.readouterr().out
    assert len(list((tmp_path / "s" / ".quarantine" / "things").iterdir())) == 1
    assert Store(tmp_path / "s").ensure(wanted).path == made.path
    assert log.read_text().split() == ["0", "1", "2", "3"], "not again"
    assert not list((tmp_path / "s").rglob(".partial*"))


def test_a_missing_file_is_built_alone_from_what_is_sound(tmp_path: Path) -> None:
    store, log = Store(tmp_path / "s"), tmp_path / "log"
    wanted = step(1, log=str(log))
    artifact = store.ensure(wanted)
    (artifact.path / "part-1.json").unlink()
    cut(artifact.path / "part-3.json")
    log.unlink()
    assert Store(tmp_path / "s").find(wanted) is None
    assert Store(tmp_path / "s").ensure(wanted).damaged() == []
    assert log.read_text().split() == ["1", "3"]


@pytest.fixture
def settle(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Waits until what a file hashes to is remembered."""
    monkeypatch.setattr(hashes, "SETTLED", 0.05)
    return lambda: time.sleep(0.1)


def test_who_builds_on_an_artifact_gets_sound_bytes(
    tmp_path: Path, settle: Callable[[], None]
) -> None:
    store = Store(tmp_path / "s")
    below = step(1)

    def copy(build: Build) -> None:
        write_json(build.dir / "copy.json", (build.need(0).path / "part-0.json").read_text())

    good = (store.ensure(below).path / "part-0.json").read_text()
    settle()
    assert store.verify(below).damaged() == []
    flip(store.path(below) / "part-0.json")
    above = Step("things", "above", 1, {}, copy, needs=(below,))
    made = Store(tmp_path / "s").ensure(above)
    assert json.loads((made.path / "copy.json").read_text()) == good


def test_what_is_remembered_of_a_file_cannot_stand_for_another(
    tmp_path: Path, settle: Callable[[], None]
) -> None:
    artifact = Store(tmp_path / "s").ensure(step(1))
    settle()
    assert artifact.damaged() == []
    (memory,) = (tmp_path / "s" / ".checked").iterdir()
    known = json.loads(memory.read_text())
    assert set(known) == {f"part-{i}.json" for i in range(4)}
    flip(artifact.path / "part-2.json")
    hashes._known.clear()  # as in another process
    assert artifact.damaged() == ["part-2.json"]
    memory.write_text("{")
    hashes._known.clear()
    assert artifact.damaged() == ["part-2.json"]


def test_a_manifest_is_read_again_only_after_it_was_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "SETTLED", 0)
    store = Store(tmp_path)
    artifact = store.ensure(step(1))
    place = artifact.path / "manifest.json"
    text, opened = place.read_text(), store.find(step(1))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", None)
        assert store.find(step(1)) == opened == artifact
    time.sleep(0.02)  # more than a tick of the file system's clock
    place.write_text(text.replace('"things"', '"thingz"'))  # of the same size
    assert "not what was written" in store.fault(step(1))
    place.write_text(text)
    assert store.find(step(1)) == artifact


def test_only_what_is_read_is_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, read = Store(tmp_path / "s"), []
    wanted = step(1)
    store.ensure(wanted)
    real = hashes.sha256_file
    monkeypatch.setattr(hashes, "sha256_file", lambda path: read.append(path.name) or real(path))
    hashes._known.clear()
    store.verify(wanted, "part-[12]*")
    assert read == ["part-1.json", "part-2.json"]


def test_what_a_killed_attempt_left_is_not_trusted_blindly(tmp_path: Path) -> None:
    def stops(build: Build) -> None:
        for i in range(3):
            write_json(build.dir / f"part-{i}.json", [i, 1])
            note_done(build.dir / f"part-{i}.json")
        raise UserError("stopped")

    store, log = Store(tmp_path / "s"), tmp_path / "log"
    wanted = step(1, log=str(log))
    with pytest.raises(UserError, match="stopped"):
        store.ensure(replace(wanted, build=stops))
    flip(store.partial(wanted) / "part-1.json")
    artifact = store.ensure(wanted)
    assert log.read_text().split() == ["1", "3"]
    assert sorted(artifact.files) == [f"part-{i}.json" for i in range(4)]
    assert sorted(p.name for p in artifact.path.iterdir()) == ["manifest.json", *artifact.files]


def test_what_took_training_is_refused_with_what_to_do(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    trained = replace(step(1), trained=True)
    folder = store.ensure(trained).path
    flip(folder / "part-2.json")
    with pytest.raises(
        DamagedArtifact, match=r"part-2\.json .*remove .*things/numbers-.* train it anew"
    ):
        Store(tmp_path / "s").verify(trained)
    assert folder.is_dir()


def test_a_store_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    path = store.ensure(step(1)).path / "manifest.json"
    old = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in old.items() if k not in ("sha256", "trained")}))
    assert Store(tmp_path / "s").verify(step(1)).facts == {"parts": 4}
    assert not (tmp_path / "s" / ".quarantine").exists()


def test_the_command_names_what_is_damaged_and_repairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, log = Store(tmp_path / "s"), tmp_path / "log"
    wanted, trained = step(1, log=str(log)), replace(step(2), trained=True)
    folders = [store.ensure(each).path for each in (wanted, trained, step(3))]
    assert check(["verify", str(tmp_path / "s")]) == 0
    flip(folders[0] / "part-1.json")
    flip(folders[1] / "part-0.json")
    (folders[2] / "manifest.json").write_text("{")
    assert check(["verify", str(tmp_path / "s")]) == 1
    told = capsys.readouterr().out
    assert f"things/{folders[0].name} is damaged: part-1.json" in told
    assert "3 damaged, 3 left" in told
    assert check(["verify", "--repair", str(tmp_path / "s")]) == 1
    told = capsys.readouterr().out
    assert f"remove {folders[1]} and run the same command again" in told
    assert "3 damaged, 1 left" in told
    log.unlink()
    store.ensure(wanted)
    assert log.read_text().split() == ["1"]
    assert check(["verify", str(tmp_path / "nowhere")]) == 2


def test_the_command_counts_unfinished_work_and_leaves_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Store(tmp_path).ensure(step(1))
    check(["verify", str(tmp_path)])
    assert "unfinished" not in capsys.readouterr().out
    for name in (".partial-0123456789ab", ".by-picture-0123abcd-0123456789ab"):
        (tmp_path / "things" / name / "part").mkdir(parents=True)
        (tmp_path / "things" / name / "part" / "values").write_bytes(b"12345")
    assert check(["verify", "--repair", str(tmp_path)]) == 0
    assert "unfinished work besides, 10 bytes in 2 folders" in capsys.readouterr().out
    assert len(list((tmp_path / "things").glob(".*/part/values"))) == 2


def linked(path: Path) -> None:
    """A link to another file of the same size."""
    other = path.with_name("part-3.json")
    path.unlink()
    path.symlink_to(other)


def nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("gone"))


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def swapped(path: Path) -> None:
    """Two bytes in each other's place, size and times the same."""
    status, content = path.stat(), bytearray(path.read_bytes())
    at = content.index(b"1")
    content[at], content[at + 1] = content[at + 1], content[at]
    path.write_bytes(bytes(content))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("damage", [linked, nowhere, piped, a_folder, swapped, cut])
def test_whatever_stands_in_the_place_of_a_file_is_replaced(tmp_path: Path, damage: Any) -> None:
    wanted = step(1)
    artifact = Store(tmp_path).ensure(wanted)
    good = (artifact.path / "part-1.json").read_bytes()
    damage(artifact.path / "part-1.json")
    hashes._known.clear()
    made = Store(tmp_path).verify(wanted)
    assert not (made.path / "part-1.json").is_symlink()
    assert (made.path / "part-1.json").read_bytes() == good
    assert made.damaged() == Store(tmp_path).verify(wanted).damaged() == []


def test_files_that_an_artifact_was_not_written_with_are_moved_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever reads all ``part-*.json`` would read a copy beside them."""
    wanted = replace(step(1), trained=True)
    artifact = Store(tmp_path).ensure(wanted)
    (artifact.path / "part-9.json").write_text("[9, 1]")
    (artifact.path / "more").mkdir()
    (artifact.path / "more" / "part-0.json").touch()
    (artifact.path / ".hidden").touch()
    assert check(["verify", str(tmp_path)]) == 1
    assert "was not written with more/part-0.json, part-9.json" in capsys.readouterr().out
    with pytest.raises(DamagedArtifact, match=r"was not written with .*part-9\.json"):
        artifact.file("part-9.json")
    Store(tmp_path).verify(wanted)
    assert "part-9.json of things/" in capsys.readouterr().out
    left = {p.name for p in artifact.path.iterdir()} - set(artifact.files)
    assert left == {"manifest.json", "more", ".hidden"}
    assert len(list((tmp_path / ".quarantine").rglob("part-*.json"))) == 2
    assert check(["verify", str(tmp_path)]) == 0


def test_what_this_user_may_not_read_is_not_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root one may read everything, so the refusal is played."""
    artifact = Store(tmp_path).ensure(step(1))

    def refuse(path: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(hashes, "sha256_file", refuse)
    hashes._known.clear()
    with pytest.raises(UserError, match=r"cannot be read: .*part-0\.json \(Permission denied\)"):
        Store(tmp_path).verify(step(1))
    assert check(["verify", "--repair", str(tmp_path)]) == 1
    assert sorted(artifact.files) == sorted(p.name for p in artifact.path.glob("part-*"))
    monkeypatch.setattr(Path, "read_text", lambda path, **_: refuse(path))
    monkeypatch.setattr(opening, "_OPENED", {})
    with pytest.raises(UserError, match=r"manifest\.json \(Permission denied\)"):
        Store(tmp_path).find(step(1))


@pytest.mark.parametrize("name", ["../victim", "/victim", "a/../../victim", "a\0b", "\ud800"])
def test_a_manifest_that_names_files_outside_is_none(tmp_path: Path, name: str) -> None:
    """A repair would move or copy them."""
    artifact = Store(tmp_path).ensure(step(1))
    (artifact.path.parent / "victim").write_text("of somebody")
    manifest = dict(artifact.manifest)
    manifest["files"] = {**manifest["files"], name: {"size": 11, "sha256": "0" * 64}}
    (artifact.path / "manifest.json").write_text(json.dumps(sealed(manifest)))
    assert check(["verify", "--repair", str(tmp_path)]) == 0
    assert (artifact.path.parent / "victim").read_text() == "of somebody"
    assert Store(tmp_path).ensure(step(1)).damaged() == []


def test_a_copy_under_another_name_and_a_store_moved_are_read(tmp_path: Path) -> None:
    import shutil

    artifact = Store(tmp_path / "s").ensure(step(1))
    shutil.copytree(artifact.path, artifact.path.with_name(f"copy-{step(1).digits}"))
    shutil.copytree(artifact.path, artifact.path.with_name(f"{artifact.path.name}-copy"))
    shutil.rmtree(artifact.path)
    (tmp_path / "s").rename(tmp_path / "moved")
    moved = Store(tmp_path / "moved")
    assert moved.verify(step(1)).path.name == f"copy-{step(1).digits}"
    assert len(list(moved.manifests("things"))) == 2


def meet_damage(root: str, log: str, go: str) -> None:
    while not Path(go).exists():
        time.sleep(0.01)
    Store(Path(root)).verify(Step("things", "numbers", 1, {"log": log}, numbers))


def test_several_meet_one_damaged_file_and_all_get_it_sound(tmp_path: Path) -> None:
    log, root = tmp_path / "log", str(tmp_path / "s")
    wanted = Step("things", "numbers", 1, {"log": str(log)}, numbers)
    path = Store(Path(root)).ensure(wanted).path
    flip(path / "part-2.json")
    log.unlink()
    arguments = (root, str(log), str(tmp_path / "go"))
    assert run_together([(meet_damage, arguments)] * 4, tmp_path / "go") == [0] * 4
    assert log.read_text().split() == ["2"]
    assert Store(Path(root)).artifact(wanted).damaged() == []
