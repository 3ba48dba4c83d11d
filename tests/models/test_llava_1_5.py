"""LLaVA-1.5 before stage 2, assembled from miniatures of its parts."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from coincide.data.llava_json import read
from coincide.models.assemble import make_processor, resize_vocabulary
from coincide.models.encode import encode
from coincide.models.llava_1_5 import Llava15
from coincide.models.load import load_model, load_processor
from coincide.models.template import TEMPLATES
from coincide.models.tensors import read_tensors
from coincide.schema import UserError
from coincide.store import Store
from coincide.system.files import sha256_file
from tests.mini.checkpoints import GRID, make_clip_tower, make_projector, make_vicuna

LLAVA = Path(__file__).parents[1] / "assets" / "llava"
CASES = [
    case
    for case in json.loads((LLAVA / "preprocess_v1.json").read_text(encoding="utf-8"))["cases"]
    if case["max_length"] == 2048
]
NEW = json.loads((LLAVA.parent / "vicuna" / "preprocess_v1.json").read_text(encoding="utf-8"))
IMAGE_TOKEN = -200
KNOWN = 700


def parts(root: Path, *, legacy: bool = False) -> Llava15:
    return Llava15(
        language=str(make_vicuna(root / "vicuna", legacy=legacy)),
        vision=str(make_clip_tower(root / "clip")),
        projector=str(make_projector(root / "projector" / "mm_projector.bin").parent),
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Llava15:
    return parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def folder(source: Llava15, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Store(tmp_path_factory.mktemp("store")).ensure(source.step()).path / "model"


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """With the tokenizer that LLaVA's recorded ids come from."""
    source = parts(tmp_path_factory.mktemp("legacy"), legacy=True)
    store = Store(tmp_path_factory.mktemp("legacy_store"))
    return load_processor(store.ensure(source.step()).path / "model")


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin")))


def test_every_tensor_is_the_sources(source: Llava15, folder: Path) -> None:
    made = stored(folder)
    language, vision = stored(Path(source.language)), stored(Path(source.vision))
    projector = stored(Path(source.projector))
    expected = {
        **{f"language_model.{k}": v for k, v in language.items() if "inv_freq" not in k},
        **{f"vision_tower.{k}": v for k, v in vision.items() if k.startswith("vision_model.")},
        "multi_modal_projector.linear_1.weight": projector["model.mm_projector.0.weight"],
        "multi_modal_projector.linear_1.bias": projector["model.mm_projector.0.bias"],
        "multi_modal_projector.linear_2.weight": projector["model.mm_projector.2.weight"],
        "multi_modal_projector.linear_2.bias": projector["model.mm_projector.2.bias"],
    }
    del expected["vision_tower.vision_model.embeddings.position_ids"]
    assert made.keys() == expected.keys()
    for name, tensor in expected.items():
        assert made[name].dtype == tensor.dtype
        assert torch.equal(made[name][: len(tensor)] if tensor.ndim else made[name], tensor), name


def test_rows_of_padding_are_the_mean(source: Llava15, folder: Path) -> None:
    weight = stored(folder)["language_model.lm_head.weight"]
    original = stored(Path(source.language))["lm_head.weight"]
    assert weight.shape[0] == 704 and weight.shape[0] % 64 == 0
    mean = original.float().mean(dim=0).to(weight.dtype)
    assert torch.equal(weight[KNOWN:], mean.expand(4, -1))


def test_nothing_is_missing_or_left_over(folder: Path) -> None:
    from transformers import AutoModelForImageTextToText

    model, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert not any(info.values())


def test_logits_equal_a_composition_by_hand(source: Llava15, folder: Path) -> None:
    from transformers import AutoConfig, CLIPVisionModel, LlamaForCausalLM

    vicuna = LlamaForCausalLM(AutoConfig.from_pretrained(source.language)).eval()
    vicuna.load_state_dict(stored(Path(source.language)), strict=False)
    clip = CLIPVisionModel.from_pretrained(source.vision).eval()
    projector = {name: tensor.float() for name, tensor in stored(Path(source.projector)).items()}

    def linear(x: torch.Tensor, layer: int) -> torch.Tensor:
        name = f"model.mm_projector.{layer}"
        return F.linear(x, projector[f"{name}.weight"], projector[f"{name}.bias"])

    torch.manual_seed(0)
    pixels = torch.randn(1, 3, 56, 56)
    before, after = torch.tensor([[1, 346, 588]]), torch.tensor([[13, 422, 266, 2]])
    with torch.inference_mode():
        patches = clip(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        image = linear(F.gelu(linear(patches, 0)), 2)
        embed = vicuna.model.embed_tokens
        together = torch.cat([embed(before), image, embed(after)], dim=1)
        expected = vicuna(inputs_embeds=together).logits
        model = load_model(folder, torch.float32, "cpu")
        placeholders = torch.full((1, GRID**2), model.config.image_token_id)
        ids = torch.cat([before, placeholders, after], dim=1)
        logits = model(input_ids=ids, pixel_values=pixels).logits
    torch.testing.assert_close(logits[..., :KNOWN], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("number", range(len(CASES)), ids=[case["name"] for case in CASES])
def test_ids_and_labels_are_llavas(
    number: int, legacy: bool, processor: Any, folder: Path, tmp_path: Path
) -> None:
    case, expected = CASES[number], CASES[number] if legacy else NEW[number]
    processor = processor if legacy else load_processor(folder)
    row = {"id": case["name"], "conversations": case["conversations"]}
    if case["images"]:
        Image.new("RGB", (20, 16)).save(tmp_path / "a.png")
        row["image"] = "a.png"
    (tmp_path / "train.json").write_text(json.dumps([row]), encoding="utf-8")
    dataset = read(tmp_path / "train.json", tmp_path, name="oracle")
    one = encode(dataset.examples[0], dataset, processor, TEMPLATES["vicuna_v1"], 2048)
    ids = torch.where(one.image_mask, IMAGE_TOKEN, one.input_ids)
    first = ~one.image_mask | ~torch.cat([torch.tensor([False]), one.image_mask[:-1]])
    assert one.image_mask.sum() == GRID**2 * case["images"]
    assert case["name"] == expected["name"]
    assert ids[first].tolist() == expected["input_ids"]
    assert one.labels[first].tolist() == expected["labels"]


@pytest.mark.parametrize("name", ["wide", "tall", "square", "odd", "small"])
def test_pixels_are_llavas(name: str, processor: Any) -> None:
    """Padded to a square with the mean colour, which the miniature CLIP has of the real one."""
    recorded = np.load(LLAVA / "pixels.npz")
    small = SimpleNamespace(image_size=24, patch_size=12)
    mean = processor.image_processor
    made = make_processor(processor.tokenizer, mean, small, cls_token=True)
    picture = Image.fromarray(recorded[f"{name}.image"])
    pixels = made.image_processor([picture], return_tensors="np")["pixel_values"][0]
    np.testing.assert_array_equal(pixels, recorded[f"{name}.pad"])


def test_processor_counts_tokens_as_the_model_does(folder: Path) -> None:
    processor = load_processor(folder)
    made = processor(
        images=Image.new("RGB", (30, 9)), text="USER: <image>\nWhat?", return_tensors="pt"
    )
    assert (made["input_ids"] == processor.image_token_id).sum() == GRID**2
    assert processor.tokenizer.pad_token_id == 701 and processor.image_token_id == 700


def test_the_processor_is_the_model_s_and_needs_no_weights(
    source: Llava15, folder: Path, tmp_path: Path
) -> None:
    """File by file what the model's artifact holds, from folders without weights."""
    names = {}
    for part in ("language", "vision"):
        names[part] = str(tmp_path / part)
        shutil.copytree(
            getattr(source, part), names[part],
            ignore=shutil.ignore_patterns("*.bin", "*.safetensors", "*.index.json"),
        )  # fmt: skip
    alone = Llava15(**names, projector=str(tmp_path / "none")).processor()
    assert alone.there
    assert alone.identity == source.processor().identity
    (tmp_path / "made").mkdir()
    alone.write(tmp_path / "made")
    made = sorted((tmp_path / "made").iterdir())
    assert made
    assert all(file.read_bytes() == (folder / file.name).read_bytes() for file in made)
    (tmp_path / "language" / "tokenizer.model").unlink()
    assert not Llava15(**names, projector="x").processor().there


def test_key_follows_the_weights_not_their_place(source: Llava15, tmp_path: Path) -> None:
    moved = parts(tmp_path)
    assert moved.step().key == source.step().key
    file = tmp_path / "projector" / "mm_projector.bin"
    alone = Llava15(moved.language, str(file), moved.vision)
    assert alone.step().key == source.step().key
    state = torch.load(file, weights_only=True)
    state["model.mm_projector.0.bias"] += 1
    torch.save(state, file)
    assert moved.step().key != source.step().key


def test_what_is_missing_is_said(source: Llava15, tmp_path: Path) -> None:
    absent = Llava15("lmsys/none-7b", str(tmp_path / "gone.bin"), source.vision)
    language, vision, projector = absent.requirements()
    assert vision.met
    assert not language.met and language.fetch is not None and "prefetch" in language.remedy
    assert not projector.met and projector.fetch is None
    with pytest.raises(UserError, match="weights lmsys/none-7b: not on this machine"):
        Store(tmp_path / "store").ensure(absent.step())


def test_a_lost_shard_is_named(tmp_path: Path) -> None:
    source = parts(tmp_path)
    (tmp_path / "vicuna" / "pytorch_model-00002-of-00002.bin").unlink()
    (requirement,) = [r for r in source.requirements() if not r.met]
    assert "lacks pytorch_model-00002-of-00002.bin" in requirement.found


def test_a_projector_of_another_shape(source: Llava15, tmp_path: Path) -> None:
    file = tmp_path / "mm_projector.bin"
    torch.save({"model.mm_projector.weight": torch.zeros(2, 2)}, file)  # LLaVA-1.0's linear one
    linear = Llava15(source.language, str(file), source.vision)
    with pytest.raises(UserError, match="expected LLaVA's mlp2x_gelu"):
        Store(tmp_path / "store").ensure(linear.step())


class Payload:
    """Runs a command when it is unpickled without care."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return open, (str(self.file), "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused(zipped: bool, source: Llava15, tmp_path: Path) -> None:
    ran, file = tmp_path / "ran", tmp_path / "mm_projector.bin"
    if zipped:
        torch.save({"x": Payload(ran)}, file)
    else:
        file.write_bytes(pickle.dumps({"x": Payload(ran)}, protocol=2))
    evil = Llava15(source.language, str(file), source.vision)
    with pytest.raises(UserError, match="no plain file of tensors"):
        Store(tmp_path / "store").ensure(evil.step())
    assert not ran.exists()


def test_killed_between_shards_it_resumes(
    source: Llava15, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coincide.models import tensors

    monkeypatch.setattr(tensors.write_tensors, "__defaults__", (40_000,))
    write, written = tensors._write_shard, []

    def killed(file: Path, content: Any) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(file.name)
        write(file, content)

    monkeypatch.setattr(tensors, "_write_shard", killed)
    store = Store(tmp_path / "store")
    with pytest.raises(KeyboardInterrupt):
        store.ensure(source.step())
    (partial,) = (tmp_path / "store" / "model").glob(".partial-*")
    times = {name: (partial / "model" / name).stat().st_mtime_ns for name in written}
    monkeypatch.setattr(tensors, "_write_shard", write)
    made = store.ensure(source.step()).path / "model"
    assert len(list(made.glob("*.safetensors"))) > 3
    assert all((made / name).stat().st_mtime_ns == time for name, time in times.items())
    assert all(torch.equal(tensor, stored(made)[name]) for name, tensor in stored(folder).items())
    assert load_model(made, torch.float32, "cpu").dtype == torch.float32


def test_two_builds_are_the_same_bytes(source: Llava15, folder: Path, tmp_path: Path) -> None:
    again = Store(tmp_path / "store").ensure(source.step()).path / "model"
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in again.iterdir())
    assert all(sha256_file(again / name) == sha256_file(folder / name) for name in names)


def test_a_tokenizer_larger_than_the_model() -> None:
    with pytest.raises(UserError, match="not a pair"):
        resize_vocabulary(torch.zeros(3, 2), known=4, rows=64)
