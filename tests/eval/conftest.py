from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from coincide.store import Store
from tests.eval.bench import adapter_step, steps


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """A model this small loses tenfold to threads that wait for each other on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with base model, two adapters and data in it, and nothing evaluated."""
    store = Store(tmp_path_factory.mktemp("made"))
    steps(store)
    store.ensure(adapter_step(1))
    return store.root


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    """A fresh copy of it."""
    shutil.copytree(made, tmp_path / "store")
    return Store(tmp_path / "store")
