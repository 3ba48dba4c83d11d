"""The store: keys, atomicity, resume, single flight, damage, and what a miss says."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from coincide.files import canonical, write_atomic, write_json
from coincide.schema import UserError
from coincide.store import Build, Step, Store


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
