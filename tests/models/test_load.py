"""Model folders: what loads, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from coincide.models.load import load_model, load_processor
from coincide.schema import UserError


def test_model_is_ready_for_inference(model: Any) -> None:
    assert not model.training
    assert model.dtype == torch.float32
    assert model.config._attn_implementation == "sdpa"


def test_dtype(folder: Path) -> None:
    assert load_model(folder, torch.bfloat16, "cpu").dtype == torch.bfloat16


def test_images_are_resized_with_pillow(processor: Any) -> None:
    assert "Pil" in type(processor.image_processor).__name__


def test_pickled_weights_are_not_loaded(folder: Path, model: Any, tmp_path: Path) -> None:
    other = tmp_path / "model"
    shutil.copytree(folder, other)
    (other / "model.safetensors").unlink()
    torch.save(model.state_dict(), other / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"expected model\.safetensors .*pytorch_model\.bin"):
        load_model(other, torch.float32, "cpu")


def test_absent_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load_model(tmp_path / "gone", torch.float32, "cpu")
    with pytest.raises(UserError, match="no such folder"):
        load_processor(tmp_path / "gone")


def test_a_processor_that_does_not_load(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "model"
    shutil.copytree(folder, other)
    (other / "processor_config.json").write_text("<html>not found</html>")
    with pytest.raises(UserError, match=r"the processor in .* does not load"):
        load_processor(other)


def test_code_in_the_folder_is_never_run(folder: Path, tmp_path: Path) -> None:
    import json

    other = tmp_path / "model"
    shutil.copytree(folder, other)
    config = json.loads((other / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}
    (other / "config.json").write_text(json.dumps(config))
    (other / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    with pytest.raises(UserError, match="code that comes with a model is never run"):
        load_model(other, torch.float32, "cpu")
    assert not (tmp_path / "ran").exists()
