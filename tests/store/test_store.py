"""The store: keys, atomicity, resume, and what a miss says."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from coincide.store import Build, Step, Store
from coincide.system.files import canonical, remove_temporary, write_atomic, write_json
from coincide.system.processes import this_process
from tests.store.things import numbers, step


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
    lacking = {"layers": (1,), "sha256": "a" * 64, "k": 800}
    why = store.explain(Step("things", "x", 1, lacking, numbers, (need,)))
    assert why == "differs from the nearest in k: absent -> 800", "an empty list is not named"
    lacking.pop("k")
    why = store.explain(Step("things", "x", 1, lacking, numbers, (need,)))
    assert why == "differs from the nearest in sources: [] -> absent", "if it is all there is"
    why = store.explain(Step("things", "x", 1, dict(old.config), numbers, (step(8),)))
    assert why.startswith("differs from the nearest in another things: ")


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


def test_temporary_files_of_the_dead_are_swept_and_of_the_living_kept(tmp_path: Path) -> None:
    dead = replace(this_process(), started=1)
    for name in (f".tmp-{dead}-0a1b2c3d-x.json", ".tmp-0a1b2c3d-x.json"):
        (tmp_path / name).touch()
    living = tmp_path / f".tmp-{this_process()}-0a1b2c3d-x.json"
    elsewhere = tmp_path / ".tmp-node7-0123abcd-4711-99-0a1b2c3d-x.json"
    for path in (living, elsewhere):
        path.touch()
    remove_temporary(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([living, elsewhere])
