"""Published models taken as they are: image-text models and CLIP."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from coincide.models.clip import HubClip, load_clip
from coincide.models.hub import Hub
from coincide.models.load import load_model, load_processor
from coincide.schema import UserError
from coincide.store import Store
from tests.mini.checkpoints import SIDE, WIDTH, make_clip_tower
from tests.mini.hub import COMMIT, cache_repository
from tests.tiny_chat import FAMILIES, make_tiny_chat
from tests.tiny_llava import make_tiny_llava

REPO = "HuggingFaceTB/SmolVLM-256M-Instruct"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with things beside it that are not wanted."""
    folder = make_tiny_llava(tmp_path_factory.mktemp("published"))
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    (folder / "README.md").write_text("# A model")
    return folder


@pytest.fixture(scope="module")
def state(published: Path) -> dict[str, torch.Tensor]:
    return load_model(published, torch.float32, "cpu").state_dict()


def same(folder: Path, state: dict[str, torch.Tensor]) -> bool:
    made = load_model(folder, torch.float32, "cpu").state_dict()
    return made.keys() == state.keys() and all(torch.equal(made[n], state[n]) for n in state)


def test_from_the_cache(
    cache: Path, published: Path, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    snapshot = cache_repository(cache, REPO, published)
    source = Hub(REPO)
    assert source.name == "SmolVLM-256M-Instruct"
    files, fits = source.requirements()
    assert files.met
    assert not fits.met and "no chat template" in fits.found  # of this miniature
    artifact = Store(tmp_path / "store").ensure(source.step())
    folder = artifact.path / "model"
    assert same(folder, state)
    assert load_processor(folder).image_token == "<image>"
    assert not (folder / "modeling_evil.py").exists()
    assert artifact.facts["source"] == {"repo": REPO, "commit": COMMIT}
    weights = (folder / "model.safetensors").stat(), (snapshot / "model.safetensors").stat()
    assert weights[0].st_ino == weights[1].st_ino, "the cache's file is linked, not copied"


def test_from_a_folder(published: Path, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    source = Hub(str(published), label="mine")
    assert source.name == "mine"
    folder = Store(tmp_path / "store").ensure(source.step()).path / "model"
    assert same(folder, state)
    inode = (folder / "model.safetensors").stat().st_ino
    assert inode != (published / "model.safetensors").stat().st_ino, "a folder may change"


def test_pickled_weights_become_safetensors(
    published: Path, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    for file in published.glob("*.json"):
        os.link(file, folder / file.name)
    torch.save(state, folder / "pytorch_model.bin")
    made = Store(tmp_path / "store").ensure(Hub(str(folder)).step()).path / "model"
    assert not (made / "pytorch_model.bin").exists()
    assert same(made, state)


@pytest.mark.parametrize("family", FAMILIES)
def test_families_with_chat_templates(family: str, cache: Path, tmp_path: Path) -> None:
    published = make_tiny_chat(family, tmp_path / "published")
    cache_repository(cache, f"owner/{family}", published)
    made = Store(tmp_path / "store").ensure(Hub(f"owner/{family}").step()).path / "model"
    assert same(made, load_model(published, torch.float32, "cpu").state_dict())
    assert load_processor(made).chat_template == load_processor(published).chat_template


def test_key_is_the_commit(cache: Path, published: Path) -> None:
    missing = Hub(REPO).step().key
    cache_repository(cache, REPO, published)
    fetched = Hub(REPO).step().key
    assert fetched != missing
    assert Hub(REPO, revision=COMMIT).step().key == fetched
    assert Hub(REPO, label="other", dtype="float32").step().key == fetched


def test_an_architecture_that_transformers_does_not_know(published: Path, tmp_path: Path) -> None:
    folder = tmp_path / "remote"
    folder.mkdir()
    for file in [*published.glob("*.json"), *published.glob("*.safetensors")]:
        os.link(file, folder / file.name)
    config = json.loads((published / "config.json").read_text())
    (folder / "config.json").unlink()
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "modeling_evil.Evil"}}
    (folder / "config.json").write_text(json.dumps(config))
    made = Store(tmp_path / "store").ensure(Hub(str(folder)).step()).path / "model"
    with pytest.raises(UserError, match="code that comes with a model is never run"):
        load_model(made, torch.float32, "cpu")


def test_a_model_that_lacks_weights_does_not_load(published: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "lacking"
    folder.mkdir()
    for file in published.glob("*.json"):
        os.link(file, folder / file.name)
    state = load_file(published / "model.safetensors")
    del state["multi_modal_projector.linear_2.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks weights of its own architecture, \w+: .*linear_2"):
        load_model(folder, torch.float32, "cpu")


# --- CLIP ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip_tower(tmp_path_factory.mktemp("openai") / "clip")


@pytest.fixture(scope="module")
def clip_folder(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store(tmp_path_factory.mktemp("store"))
    return store.ensure(HubClip(str(clip)).step()).path / "model"


def test_clip_has_the_published_weights(clip: Path, clip_folder: Path) -> None:
    model = load_clip(clip_folder, "float32", "cpu").state_dict()
    stored = torch.load(clip / "pytorch_model.bin", weights_only=True)
    compared = {name for name in model if name in stored}
    assert {"visual_projection.weight", "text_projection.weight", "logit_scale"} <= compared
    assert all(torch.equal(model[name], stored[name]) for name in compared)
    assert len(compared) == len(model)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_clip_embeds_images_and_texts(dtype: str, clip_folder: Path) -> None:
    from PIL import Image

    from coincide.features.forward.clip import ClipEncoder

    processor = load_processor(clip_folder)
    encoder = ClipEncoder(load_clip(clip_folder, dtype, "cpu"), processor, batch_size=2)
    texts = encoder.texts(["a red circle", "the blue square, " * 60, "yes"])
    assert texts.shape == (3, WIDTH) and abs((texts**2).sum(axis=1) - 1).max() < 1e-2
    pixels = processor.image_processor([Image.new("RGB", (90, 70))], return_tensors="pt")
    assert pixels["pixel_values"].shape == (1, 3, SIDE, SIDE)


def test_clip_pools_at_the_end_token(clip_folder: Path) -> None:
    """The published configuration names another end token; the largest id is the one."""
    model, processor = load_clip(clip_folder, "float32", "cpu"), load_processor(clip_folder)
    inputs = processor.tokenizer(["a red circle", "yes"], padding=True, return_tensors="pt")
    with torch.inference_mode():
        output = model.text_model(**inputs)
    at = (inputs["input_ids"] == processor.tokenizer.eos_token_id).int().argmax(dim=1)
    assert at.tolist() == [4, 2]
    assert torch.equal(output.pooler_output, output.last_hidden_state[[0, 1], at])


def test_clips_tokenizer_is_clips(clip_folder: Path) -> None:
    tokenizer = load_processor(clip_folder).tokenizer
    ids: Any = tokenizer("The RED circle")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == [
        "<|startoftext|>", "the</w>", "red</w>", "circle</w>", "<|endoftext|>",
    ]  # fmt: skip
    assert tokenizer.model_max_length == 77


def test_clip_names_itself(clip: Path) -> None:
    assert HubClip("openai/clip-vit-large-patch14-336").name == "clip-vit-large-patch14-336"
    assert HubClip(str(clip)).step().key == HubClip(str(clip), dtype="float16").step().key
