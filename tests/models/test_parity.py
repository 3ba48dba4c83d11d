"""Token ids, labels and pixels equal those of LLaVA's own code (tests/assets/llava)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coincide.data.llava_json import read
from coincide.models.encode import encode
from coincide.models.load import load_processor
from coincide.models.template import TEMPLATES

ASSETS = Path(__file__).parents[1] / "assets" / "llava"
CASES = json.loads((ASSETS / "preprocess_v1.json").read_text(encoding="utf-8"))["cases"]
IMAGE_TOKEN = -200


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """LLaVA's tokenizer, and one token for an image as in LLaVA before its features go in."""
    from transformers import AddedToken, LlavaProcessor, PreTrainedTokenizerFast
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(ASSETS / "tokenizer.json"),
        bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>",
        extra_special_tokens={"image_token": AddedToken("<image>", normalized=False)},
    )  # fmt: skip
    size = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    made = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(**size),
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    folder = tmp_path_factory.mktemp("processor")
    made.save_pretrained(folder)
    return load_processor(folder)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_ids_and_labels(case: dict[str, Any], processor: Any, tmp_path: Path) -> None:
    row = {"id": case["name"], "conversations": case["conversations"]}
    if case["images"]:
        Image.new("RGB", (20, 16)).save(tmp_path / "a.png")
        row["image"] = "a.png"
    (tmp_path / "train.json").write_text(json.dumps([row]), encoding="utf-8")
    dataset = read(tmp_path / "train.json", tmp_path, name="oracle")
    encoded = encode(
        dataset.examples[0], dataset, processor, TEMPLATES["vicuna_v1"], case["max_length"]
    )
    ids = [IMAGE_TOKEN if i == processor.image_token_id else i for i in encoded.input_ids.tolist()]
    assert ids == case["input_ids"]
    assert encoded.labels.tolist() == case["labels"]


@pytest.mark.parametrize("aspect", ["processor", "pad"])
@pytest.mark.parametrize("name", ["wide", "tall", "square", "odd", "small"])
def test_pixels(aspect: str, name: str, processor: Any, tmp_path: Path) -> None:
    """``image_aspect_ratio pad`` is ``do_pad`` of the image processor that a model folder holds."""
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    processor.image_processor = LlavaImageProcessorPil(
        do_pad=aspect == "pad",
        size={"shortest_edge": 24},
        crop_size={"height": 24, "width": 24},
    )
    processor.save_pretrained(tmp_path)
    expected = np.load(ASSETS / "pixels.npz")
    Image.fromarray(expected[f"{name}.image"]).save(tmp_path / "a.png")
    row = {"image": "a.png", "conversations": CASES[0]["conversations"]}
    (tmp_path / "train.json").write_text(json.dumps([row]), encoding="utf-8")
    dataset = read(tmp_path / "train.json", tmp_path, name="oracle")
    encoded = encode(
        dataset.examples[0], dataset, load_processor(tmp_path), TEMPLATES["vicuna_v1"], 2048
    )
    assert encoded.pixel_values is not None
    np.testing.assert_array_equal(encoded.pixel_values[0].numpy(), expected[f"{name}.{aspect}"])
