"""The store: keys, atomicity, resume, single flight, damage, and what a miss says."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coincide.pipeline import Stage
from coincide.schema import UserError
from coincide.store import Build, DamagedArtifact, Step, Store, attempts, hashes, note_done, sealed
from coincide.store.__main__ import main as check
from coincide.system import disk
from coincide.system.files import canonical, sweep, write_atomic, write_json
from coincide.system.processes import this_process


def numbers(build: Build) -> dict[str, int]:
    """Four files; those found are kept. Counts itself in a file outside the store."""
    log = Path(build.step.config["log"]) if "log" in build.step.config else None
    for i in range(4):
        path = build.dir / f"part-{i}.json"
        if not path.is_file():
            if log:
                with log.open("a") as handle:
                    handle.write(f"{i}\n")
            write_json(path, [i, build.step.config.get("value", 0)])
    return {"parts": 4}


def step(value: int = 0, *, name: str = "numbers", version: int = 1, **more: object) -> Step:
    return Step("things", name, version, {"value": value, **more}, numbers)


def test_a_key_is_what_changes_the_answer_and_not_the_readable_name() -> None:
    assert step(1).key == step(1, name="other").key
    assert len({step(1).key, step(2).key, step(1, version=2).key}) == 3
    above = Step("things", "above", 1, {}, numbers, needs=(step(1),))
    other = Step("things", "above", 1, {}, numbers, needs=(step(2),))
    assert above.key != other.key
    assert canonical({"b": 1, "a": 1.0}) == '{"a":1.0,"b":1}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"x": float("nan")})


def test_ensure_builds_once_and_records_what_it_wrote(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    log = tmp_path / "log"
    first = store.ensure(step(7, log=str(log)))
    again = store.ensure(step(7, name="renamed", log=str(log)))
    assert again.path == first.path
    assert log.read_text().split() == ["0", "1", "2", "3"]
    assert sorted(first.manifest["files"]) == [f"part-{i}.json" for i in range(4)]
    assert first.facts == {"parts": 4}
    assert first.damaged() == []
    assert not list((tmp_path / "store").rglob(".partial*"))


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


def killed_after(root: str, log: str, parts: int) -> None:
    """Build in a child process that dies by SIGKILL after ``parts`` files."""

    def dying(build: Build) -> dict[str, int]:
        for i in range(parts):
            write_json(build.dir / f"part-{i}.json", [i, 9])
        (build.dir / ".tmp-half").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
        return {}

    Store(Path(root)).ensure(Step("things", "numbers", 1, {"value": 9, "log": log}, dying))


def test_a_killed_build_resumes_with_what_it_had_and_sweeps_half_files(tmp_path: Path) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    child = context.Process(target=killed_after, args=(str(tmp_path / "s"), str(log), 3))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    store = Store(tmp_path / "s")
    wanted = step(9, log=str(log))
    assert store.find(wanted) is None
    (partial,) = (tmp_path / "s" / "things").glob(".partial-*")
    began = float((partial / ".attempts").read_text().split()[0])
    for path in partial.iterdir():
        os.utime(path, (began + 100, began + 100))  # as if it had worked for so long
    artifact = store.ensure(wanted)
    assert 100 <= artifact.seconds < 200
    assert log.read_text().split() == ["3"]
    assert artifact.manifest["attempts"] == 2
    assert not (artifact.path / ".tmp-half").exists()


@pytest.mark.parametrize("line", ["1764000000.5", "1764000000.5 12.", "176400", "", "x y"])
def test_a_torn_note_of_an_attempt_costs_its_time_and_nothing_else(
    tmp_path: Path, line: str
) -> None:
    store = Store(tmp_path)
    partial = tmp_path / "things" / f".partial-{step(4).key[:12]}"
    partial.mkdir(parents=True)
    (partial / ".attempts").write_text(line)
    assert store.ensure(step(4)).manifest["attempts"] <= 2


def slow(build: Build) -> dict[str, int]:
    with Path(build.step.config["log"]).open("a") as handle:
        handle.write("built\n")
    time.sleep(0.3)
    return numbers(build)


def race(root: str, log: str) -> None:
    Store(Path(root)).ensure(Step("things", "slow", 1, {"log": log}, slow))


def without_locks(root: str, log: str) -> None:
    from contextlib import nullcontext

    store = Store(Path(root))
    store._lock = lambda step: nullcontext(False)  # type: ignore[method-assign,assignment]
    store.ensure(Step("things", "slow", 1, {"log": log}, slow))


@pytest.mark.parametrize(("target", "builds"), [(race, 1), (without_locks, None)])
def test_ten_processes_agree_on_one_artifact(tmp_path: Path, target: object, builds: int) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    root = str(tmp_path / "s")
    children = [context.Process(target=target, args=(root, str(log))) for _ in range(10)]  # type: ignore[arg-type]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 10
    assert builds is None or log.read_text().count("built") == builds
    artifact = Store(tmp_path / "s").artifact(Step("things", "slow", 1, {"log": str(log)}, slow))
    assert artifact.damaged() == []
    assert not list((tmp_path / "s").rglob(".partial*"))


def test_a_miss_names_the_fields_that_differ(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert "no things artifact yet" in store.explain(step(1))
    store.ensure(step(1, depth={"layers": [1, 2]}))
    why = store.explain(step(2, depth={"layers": [1, 3]}))
    assert "value: 1 -> 2" in why
    assert "depth.layers: [1, 2] -> [1, 3]" in why


def test_a_miss_names_no_difference_that_is_none(tmp_path: Path) -> None:
    """Manifests hold lists where configurations have tuples; hashes are said to be of content."""
    store, need = Store(tmp_path), step(7)
    had = {"sources": (), "layers": (1,), "sha256": "a" * 64}
    old = Step("things", "x", 1, had, numbers, (need,))
    store.ensure(need)
    store.ensure(old)
    config = {"sources": (), "layers": (1,), "sha256": "b" * 64, "k": 800}
    why = store.explain(Step("things", "x", 1, config, numbers, (need,)))
    assert why == (
        "differs from the nearest in k: absent -> 800, "
        "sha256: other content (hash aaaaaaaa -> bbbbbbbb)"
    )
    why = store.explain(Step("things", "x", 1, dict(old.config), numbers, (step(8),)))
    assert why.startswith("differs from the nearest in another things: ")


def test_a_full_disk_says_how_much_is_free_and_keeps_what_was_done(tmp_path: Path) -> None:
    def full(build: Build) -> dict[str, int]:
        write_json(build.dir / "part-0.json", [0, 5])
        raise OSError(errno.ENOSPC, "No space left on device")

    store = Store(tmp_path)
    with pytest.raises(UserError, match=r"full while writing .*bytes free.*paths\.store"):
        store.ensure(Step("things", "numbers", 1, {"value": 5}, full))
    assert store.ensure(step(5)).manifest["attempts"] == 2


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"old": True})

    def half(temporary: Path) -> None:
        temporary.write_text("{")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_atomic(path, half)
    assert json.loads(path.read_text()) == {"old": True}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


# --- damage -----------------------------------------------------------------------------------


def flip(path: Path) -> None:
    """Another last byte, in a file of the same size and with the same times."""
    status, content = path.stat(), path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


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


def test_who_builds_on_an_artifact_gets_sound_bytes(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    below = step(1)

    def copy(build: Build) -> None:
        write_json(build.dir / "copy.json", (build.need(0).path / "part-0.json").read_text())

    good = (store.ensure(below).path / "part-0.json").read_text()
    time.sleep(1.1)  # until what it hashes to is remembered
    assert store.verify(below).damaged() == []
    flip(store.path(below) / "part-0.json")
    above = Step("things", "above", 1, {}, copy, needs=(below,))
    made = Store(tmp_path / "s").ensure(above)
    assert json.loads((made.path / "copy.json").read_text()) == good


def test_what_is_remembered_of_a_file_cannot_stand_for_another(tmp_path: Path) -> None:
    artifact = Store(tmp_path / "s").ensure(step(1))
    time.sleep(1.1)
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


# --- windows ----------------------------------------------------------------------------------


def run_together(calls: Sequence[tuple[Any, tuple[Any, ...]]], go: Path) -> list[int | None]:
    """Exit codes of processes that begin together."""
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=target, args=args) for target, args in calls]
    for child in children:
        child.start()
    go.touch()
    for child in children:
        child.join()
    return [child.exitcode for child in children]


def killed_at(root: str, log: str, name: str, number: int) -> None:
    """Build, or repair, in a process that dies at its ``number``-th call of ``os.<name>``."""
    real, calls = getattr(os, name), []

    def deadly(*args: Any, **more: Any) -> Any:
        calls.append(args)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **more)

    setattr(os, name, deadly)
    store, wanted = Store(Path(root)), step(5, log=log)
    store.verify(wanted) if store.find(wanted) else store.ensure(wanted)


def test_a_forked_child_locks_what_its_parent_locked_after_an_evaluation(tmp_path: Path) -> None:
    from lmms_eval.evaluator import _enable_reentrant_filelocks

    _enable_reentrant_filelocks()  # what every evaluation does to file locks, for good
    wanted = step(5)
    flip(Store(tmp_path).ensure(wanted).path / "part-1.json")
    child = multiprocessing.get_context("fork").Process(
        target=Store(tmp_path).verify, args=[wanted]
    )
    child.start()
    child.join()
    assert child.exitcode == 0


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("name", ["rename", "replace", "fsync", "unlink", "utime"])
def test_killed_at_any_call_it_is_whole_or_goes_on(
    tmp_path: Path, name: str, damaged: bool
) -> None:
    context = multiprocessing.get_context("fork")
    log, good = tmp_path / "log", {f"part-{i}.json": [i, 5] for i in range(4)}
    for number in range(1, 30):
        root = tmp_path / f"s{number}"
        wanted = step(5, log=str(log))
        if damaged:
            flip(Store(root).ensure(wanted).path / "part-1.json")
        child = context.Process(target=killed_at, args=(str(root), str(log), name, number))
        child.start()
        child.join()
        if not damaged:
            assert all(".partial" not in str(a.path) for a in Store(root).artifacts("things"))
        artifact = Store(root).verify(Store(root).ensure(wanted) and wanted)
        assert {n: json.loads((artifact.path / n).read_text()) for n in artifact.files} == good
        assert not list(root.rglob(".partial*")) and not list(root.rglob(".claimed*")), number
        assert not list(artifact.path.glob(".*"))
        if child.exitcode == 0:
            return
    raise AssertionError("never came to its end")


def test_killed_after_the_manifest_it_only_has_to_be_renamed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    wanted = step(5, log=str(log))
    path = Store(tmp_path / "s").ensure(wanted).path
    os.rename(path, path.with_name(f".partial-{wanted.digits}"))
    store = Store(tmp_path / "s")
    assert store.find(wanted) is None
    assert list(store.manifests("things")) == []
    log.unlink()
    assert store.ensure(wanted).damaged() == []
    assert not log.exists()
    assert "killed at its end" in capsys.readouterr().out


# --- without locks ----------------------------------------------------------------------------


def without_lock(root: Path) -> Store:
    from contextlib import nullcontext

    store = Store(root)
    store._lock = lambda step: nullcontext(False)  # type: ignore[method-assign,assignment]
    return store


def lockless(root: str, log: str, seconds: float, parts: int = 4) -> None:
    """Build slowly where no lock can be had; with less than four parts it is killed then."""

    def build(build: Build) -> dict[str, int]:
        with Path(log).open("a") as handle:
            handle.write(f"{build.dir.name}\n")
        for i in range(4):
            if i == parts:
                os.kill(os.getpid(), signal.SIGKILL)
            if not (build.dir / f"part-{i}.json").exists():
                write_json(build.dir / f"part-{i}.json", [i, os.getpid()])
            time.sleep(seconds)
        return {"pid": os.getpid()}

    without_lock(Path(root)).ensure(Step("things", "slow", 1, {}, build))


def test_without_locks_an_artifact_is_of_one_process(tmp_path: Path) -> None:
    log = tmp_path / "log"
    calls = [(lockless, (str(tmp_path / "s"), str(log), 0.1))] * 5
    assert run_together(calls, tmp_path / "go") == [0] * 5
    (folder,) = (tmp_path / "s" / "things").glob("slow-*")
    pids = {json.loads((folder / f"part-{i}.json").read_text())[1] for i in range(4)}
    assert len(pids) == 1
    assert not list((tmp_path / "s").rglob(".partial*"))


def test_without_locks_the_work_of_a_dead_process_is_gone_on_with(tmp_path: Path) -> None:
    log, root = tmp_path / "log", str(tmp_path / "s")
    assert run_together([(lockless, (root, str(log), 0.0, 3))], tmp_path / "go") == [-9]
    (partial,) = (tmp_path / "s" / "things").glob(".partial-*")
    before = json.loads((partial / "part-0.json").read_text())
    assert run_together([(lockless, (root, str(log), 0.0))], tmp_path / "go") == [0]
    (folder,) = (tmp_path / "s" / "things").glob("slow-*")
    assert json.loads((folder / "part-0.json").read_text()) == before
    assert not list((tmp_path / "s").rglob(".partial*"))


def test_a_silent_process_of_another_machine_is_waited_for_and_then_not_disturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    partial = tmp_path / "things" / f".partial-{step(1).digits}"
    partial.mkdir(parents=True)
    write_json(partial / "part-0.json", [0, 1])
    (partial / ".owner-node7-0123abcd-4711-99").touch()
    monkeypatch.setattr(attempts, "LEASE", 0.6)
    used = []

    def build(build: Build) -> dict[str, int]:
        used.append(build.dir)
        return numbers(build)

    store = Store(tmp_path)
    store.ensure(replace(step(1), build=build))
    told = capsys.readouterr().out
    assert "waiting for process 4711 on node7, which builds it" in told
    assert used != [partial], "should it wake up, it writes into a folder that is gone"
    assert not list(tmp_path.rglob(".partial*"))


def test_a_process_that_lost_its_attempt_uses_the_other_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def overtaken(build: Build) -> dict[str, int]:
        facts = numbers(build)
        os.rename(build.dir, tmp_path / "taken")  # as another does that takes it for dead
        (tmp_path / "taken" / f".owner-{this_process()}").unlink()
        os.rename(tmp_path / "taken", build.dir)
        without_lock(tmp_path / "s").ensure(step(1))
        build.dir.mkdir()
        return facts

    artifact = without_lock(tmp_path / "s").ensure(replace(step(1), build=overtaken))
    assert artifact.damaged() == []
    assert "another process finished it first" in capsys.readouterr().out


# --- disks ------------------------------------------------------------------------------------

FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    OSError("96000 requested and 53184 written"),  # numpy's, without a number
    RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"),
]


@pytest.mark.parametrize("error", FULL, ids=lambda e: str(e)[:20])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_is_told_as_that_whoever_noticed(
    tmp_path: Path, error: Exception, wrapped: bool
) -> None:
    def full(build: Build) -> None:
        if not wrapped:
            raise error
        try:
            raise error
        except Exception as cause:
            raise ValueError("An error occurred while generating the dataset") from cause

    wanted = replace(step(1), build=full)
    stage = Stage("select", (wanted,))
    with pytest.raises(
        UserError, match=r"select: .*full while writing things/numbers-.*bytes free"
    ):
        stage.build(Store(tmp_path), [wanted])


def test_numpy_says_how_much_it_needed(tmp_path: Path) -> None:
    told = disk.as_disk_error(
        OSError("96000 requested and 53184 written"), tmp_path, "it", "Set it."
    )
    assert "at least 96,000 needed" in str(told)


def test_temporary_files_of_the_dead_are_swept_and_of_the_living_kept(tmp_path: Path) -> None:
    dead = replace(this_process(), started=1)
    for name in (f".tmp-{dead}-0a1b2c3d-x.json", ".tmp-0a1b2c3d-x.json"):
        (tmp_path / name).touch()
    living = tmp_path / f".tmp-{this_process()}-0a1b2c3d-x.json"
    elsewhere = tmp_path / ".tmp-node7-0123abcd-4711-99-0a1b2c3d-x.json"
    for path in (living, elsewhere):
        path.touch()
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([living, elsewhere])
