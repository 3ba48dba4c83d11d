from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from coincide.store import Store
from tests.train.tiny import Bench


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the base model, the data and the subset in it."""
    store = Store(tmp_path_factory.mktemp("made"))
    for need in Bench(store).step().needs:
        store.ensure(need)
    return store.root


@pytest.fixture
def bench(made: Path, tmp_path: Path) -> Bench:
    """A fresh copy of it."""
    shutil.copytree(made, tmp_path / "store")
    return Bench(Store(tmp_path / "store"))
