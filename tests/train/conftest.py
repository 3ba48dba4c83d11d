from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

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


@pytest.fixture
def llava() -> LlavaForConditionalGeneration:
    """Two layers of width 16, as in ``tests/assets/llava_recipe``."""
    size = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2}
    text = LlamaConfig(**size, **heads, vocab_size=40, num_key_value_heads=2)
    vision = CLIPVisionConfig(**size, **heads, image_size=8, patch_size=4)
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=39)
    )
