"""Doctor and prefetch over parts that say what they need."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from coincide.checks.fetch import fetch_all
from coincide.checks.machine import packages, store_space
from coincide.checks.needs import examine, gather, refuse_unmet
from coincide.protocols import Requirement
from coincide.schema import UserError
from coincide.store import Store


@dataclass
class Asking:
    """Stands for an experiment and its one part, whose requirements are made at each call."""

    folder: Path
    fatal: bool = True
    fetches: list[str] = field(default_factory=list)
    broken: tuple[str, ...] = ()
    models: dict[str, object] = field(default_factory=dict)

    @property
    def store(self) -> Store:
        return Store(self.folder / "store")

    def parts(self, stages: object) -> dict[str, Asking]:
        return {"data": self}

    def requirements(self) -> list[Requirement]:
        return [self._of(name) for name in ("annotations", "images")]

    def _of(self, name: str) -> Requirement:
        path = self.folder / name

        def fetch() -> None:
            if name in self.broken:
                raise OSError(f"{name}: connection refused")
            self.fetches.append(name)
            path.write_text("x")

        state = f"{path}" if path.exists() else f"{path}: no such file"
        return Requirement(
            name, path.exists(), state, "fetch it", 2_500_000, fetch=fetch, fatal=self.fatal
        )


def test_each_thing_is_asked_for_once(tmp_path: Path) -> None:
    one, two = Asking(tmp_path), Asking(tmp_path)
    assert [r.name for _, r in gather([(one, ()), (two, ())])] == ["annotations", "images"]


def test_a_run_is_refused_with_all_that_is_missing(tmp_path: Path) -> None:
    asking = Asking(tmp_path)
    (tmp_path / "images").write_text("x")
    with pytest.raises(UserError, match=r"data: annotations: .*no such file\n") as caught:
        refuse_unmet([(asking, ())])
    assert "images" not in str(caught.value)
    assert "coincide.doctor" in str(caught.value)


def test_what_is_not_fatal_stops_nothing(tmp_path: Path) -> None:
    refuse_unmet([(Asking(tmp_path, fatal=False), ())])


def test_doctor_then_prefetch_then_doctor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asking = Asking(tmp_path)
    assert examine([(asking, ())]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "missing" in said
    assert "2 missing; 2 of them (5.0 MB as far as known) can be fetched" in said
    assert fetch_all([(asking, ())]) == 0
    assert asking.fetches == ["annotations", "images"]
    assert fetch_all([(asking, ())]) == 0
    assert asking.fetches == ["annotations", "images"], "what is there is not fetched again"
    capsys.readouterr()
    assert examine([(asking, ())]) == 0
    assert "Ready" in capsys.readouterr().out


def test_one_failed_fetch_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asking = Asking(tmp_path, broken=("annotations",))
    assert fetch_all([(asking, ())]) == 1
    assert asking.fetches == ["images"]
    assert "annotations: connection refused" in capsys.readouterr().out


def test_packages_out_of_range_are_named(tmp_path: Path) -> None:
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text('[project]\ndependencies = ["numpy>=999", "no-such-thing", "rich"]\n')
    found = packages(pyproject)
    assert not found.met
    assert "numpy" in found.found
    assert ">=999" in found.found
    assert "no-such-thing is not installed" in found.found
    assert "rich" not in found.found


def test_room_is_told_of_a_store_that_is_not_there_yet(tmp_path: Path) -> None:
    found = store_space(tmp_path / "a" / "b")
    assert found.met
    assert "free" in found.found
