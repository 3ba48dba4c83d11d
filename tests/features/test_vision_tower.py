"""Vision towers of transformers: a tiny DINOv2 over the pool, each picture once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from coincide.config import FeaturePass
from coincide.data.images import load_image
from coincide.features.engine.contract import WorkerSite
from coincide.features.forward import clip
from coincide.features.signals.picture_embedding import PictureEmbedding
from coincide.models.vision import HubVision, load_image_processor, load_tower
from coincide.schema import UserError
from tests.features.conftest import Source


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DINOv2 with random weights and its own image processor."""
    from transformers import AutoModel, BitImageProcessor, Dinov2Config

    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    path = tmp_path_factory.mktemp("dinov2")
    AutoModel.from_config(config).save_pretrained(path)
    size = {"height": 28, "width": 28}
    BitImageProcessor(size={"shortest_edge": 28}, crop_size=size).save_pretrained(path)
    return path


def test_rows_have_the_class_token_of_their_picture_and_each_picture_passes_once(
    folder: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = source.open(folder)
    signal = PictureEmbedding()
    once: list[int] = []
    real = clip.ImageEncoder.images
    monkeypatch.setattr(
        clip.ImageEncoder, "images", lambda s, p: (once.append(len(p)), real(s, p))[1]
    )
    model = SimpleNamespace(name="dinov2", dtype="float64")
    over = type(signal).make_pass(model, source, FeaturePass(batch_size=4))  # type: ignore[arg-type]
    assert over.config() == {"dtype": "float64"}
    with over.computer([signal], WorkerSite(folder, dataset, "cpu", 0)) as compute:
        [values], valid = compute(dataset.examples, lambda rows: None)
    assert np.flatnonzero(~valid).tolist() == sorted(dataset.dropped)
    shown = {n for e in dataset.examples if e.row not in dataset.dropped for n in e.images}
    assert sum(once) == len(shown)

    tower, processor = load_tower(folder, "float64", "cpu"), load_image_processor(folder)
    for example in dataset.examples:
        if example.row in dataset.dropped or len(example.images) > 1:
            continue
        if not example.images:
            assert np.isnan(values[example.row]).all()
            continue
        picture = load_image(dataset.image_root, example.images[0])
        pixels = processor([picture], return_tensors="pt")["pixel_values"].double()
        with torch.inference_mode():
            token = tower.model(pixel_values=pixels).last_hidden_state[0, 0].numpy()
        np.testing.assert_allclose(
            values[example.row], token / np.linalg.norm(token), rtol=1e-4, atol=1e-6
        )


def test_what_is_no_vision_tower_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not load"):
        load_tower(tmp_path, "float32", "cpu")
    assert load_tower(folder, "float32", "cpu").width == 24


def test_a_tower_and_a_clip_of_one_repository_are_two_artifacts(folder: Path) -> None:
    from coincide.models.clip import HubClip

    assert HubVision(str(folder)).step().key != HubClip(str(folder)).step().key
