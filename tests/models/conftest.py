from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tiny_llava import make_tiny_llava


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA on disk."""
    return make_tiny_llava(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def processor(folder: Path) -> Any:
    from coincide.models.load import load_processor

    return load_processor(folder)


@pytest.fixture(scope="session")
def model(folder: Path) -> Any:
    import torch

    from coincide.models.load import load_model

    return load_model(folder, torch.float32, "cpu")
