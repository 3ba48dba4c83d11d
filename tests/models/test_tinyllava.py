"""The converted TinyLLaVA says what the original says, and COINCIDE's scripts say the same of it.

What they said is in tests/assets/tinyllava.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from coincide.data.llava_json import read
from coincide.features.forward.capture import run
from coincide.features.signals.activations import Activations
from coincide.features.signals.token_scores import TokenScores
from coincide.models.encode import Encoded, collate, encode
from coincide.models.load import load_model, load_processor
from coincide.models.template import TEMPLATES
from coincide.models.tinyllava import TinyLlava
from coincide.ops.scores import aum, el2n
from coincide.schema import UserError
from coincide.store import Store
from tests.mini.checkpoints import make_tinyllava

ASSETS = Path(__file__).parents[1] / "assets" / "tinyllava"
ORACLE = json.loads((ASSETS / "oracle.json").read_text(encoding="utf-8"))
ARRAYS = np.load(ASSETS / "oracle.npz")
COINCIDE = json.loads((ASSETS / "coincide.json").read_text(encoding="utf-8"))
RECORDED = np.load(ASSETS / "coincide.npz")
CASES = list(enumerate(ORACLE["cases"]))
PICTURES = sorted(name.removesuffix(".image") for name in ARRAYS if name.endswith(".image"))
IMAGE_TOKEN = -200


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> TinyLlava:
    folder = make_tinyllava(tmp_path_factory.mktemp("bczhou") / "TinyLLaVA-2.0B")
    return TinyLlava(repo=str(folder), tower=f"{folder}-SigLIP")


@pytest.fixture(scope="module")
def converted(source: TinyLlava, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Store(tmp_path_factory.mktemp("store")).ensure(source.step()).path / "model"


@pytest.fixture(scope="module")
def processor(converted: Path) -> Any:
    return load_processor(converted)


@pytest.fixture(scope="module")
def model(converted: Path) -> Any:
    return load_model(converted, torch.float32, "cpu")


def encoded(case: dict[str, Any], processor: Any, folder: Path) -> Encoded:
    row = {"id": "x", "conversations": case["conversations"]}
    if case["picture"]:
        Image.fromarray(ARRAYS[f"{case['picture']}.image"]).save(folder / "a.png")
        row["image"] = "a.png"
    (folder / "train.json").write_text(json.dumps([row]), encoding="utf-8")
    dataset = read(folder / "train.json", folder, name="oracle")
    return encode(dataset.examples[0], dataset, processor, TEMPLATES["phi"], 3072)


@pytest.mark.parametrize(("number", "case"), CASES)
def test_logits(
    number: int, case: dict[str, Any], model: Any, processor: Any, tmp_path: Path
) -> None:
    one = encoded(case, processor, tmp_path)
    with torch.inference_mode():
        logits = model(input_ids=one.input_ids[None], pixel_values=one.pixel_values).logits[0]
    expected = torch.from_numpy(ARRAYS[f"{number}.logits"])
    assert len(logits) == case["length"]
    torch.testing.assert_close(
        logits[-len(expected) :, : expected.shape[1]], expected, atol=2e-5, rtol=0
    )


@pytest.mark.parametrize(("number", "case"), CASES)
def test_loss_is_the_originals_but_for_the_rows_of_padding(
    number: int, case: dict[str, Any], model: Any, processor: Any, tmp_path: Path
) -> None:
    one = encoded(case, processor, tmp_path)
    with torch.inference_mode():
        loss = model(
            input_ids=one.input_ids[None],
            pixel_values=one.pixel_values,
            labels=one.labels[None],
        ).loss
    known = len(processor.tokenizer) - 1
    bound = np.log1p((model.config.text_config.vocab_size - known) / known)
    assert -1e-5 <= float(loss) - case["loss"] <= bound + 1e-5


@pytest.mark.parametrize(("number", "case"), CASES)
def test_token_ids(number: int, case: dict[str, Any], processor: Any, tmp_path: Path) -> None:
    one = encoded(case, processor, tmp_path)
    ids = torch.where(one.image_mask, IMAGE_TOKEN, one.input_ids)
    first = ~one.image_mask | ~torch.cat([torch.tensor([False]), one.image_mask[:-1]])
    assert ids[first].tolist() == case["input_ids"]
    assert one.labels[first].tolist() == case["labels"]


@pytest.mark.parametrize("name", PICTURES)
def test_pixels(name: str, processor: Any) -> None:
    picture = Image.fromarray(ARRAYS[f"{name}.image"])
    pixels = processor.image_processor([picture], return_tensors="np")["pixel_values"][0]
    np.testing.assert_array_equal(pixels, ARRAYS[f"{name}.pixels"])


def test_the_image_is_looked_at(model: Any, processor: Any, tmp_path: Path) -> None:
    """The oracle's agreement would mean little if the pixels did not matter."""
    one = encoded(ORACLE["cases"][0], processor, tmp_path)
    assert one.pixel_values is not None
    with torch.inference_mode():
        seen = model(input_ids=one.input_ids[None], pixel_values=one.pixel_values).logits
        other = model(input_ids=one.input_ids[None], pixel_values=one.pixel_values * -1).logits
    assert (seen - other).abs().max() > 1e-2


# --- COINCIDE's own scripts ---------------------------------------------------------------------


def batched(
    processor: Any, folder: Path, change: Callable[[Encoded], Encoded]
) -> list[dict[str, torch.Tensor]]:
    """The five examples that COINCIDE's scripts were run on, two to a batch."""
    for name in PICTURES:
        Image.fromarray(ARRAYS[f"{name}.image"]).save(folder / f"{name}.png")
    (folder / "train.json").write_text(json.dumps(COINCIDE["rows"]), encoding="utf-8")
    dataset = read(folder / "train.json", folder, name="oracle")
    template = TEMPLATES["phi"]
    rows = [change(encode(e, dataset, processor, template, 3072)) for e in dataset.examples]
    pad = processor.tokenizer.pad_token_id
    return [collate(rows[at : at + 2], pad) for at in range(0, len(rows), 2)]


def without(token: int) -> Callable[[Encoded], Encoded]:
    """Take every ``token`` out of an example."""

    def change(one: Encoded) -> Encoded:
        keep = one.input_ids != token
        names = ("input_ids", "labels", "image_mask", "text_mask")
        return replace(one, **{name: getattr(one, name)[keep] for name in names})

    return change


@pytest.mark.parametrize("released", [False, True])
def test_features_and_scores_are_coincides(
    released: bool, model: Any, processor: Any, tmp_path: Path
) -> None:
    """End tokens kept, as TinyLLaVA's training keeps them. The collators of COINCIDE's scripts, as
    released, take each for padding, since the tokenizer pads with it, and drop it everywhere.
    """
    change = without(processor.tokenizer.eos_token_id) if released else lambda one: one
    suffix = "" if released else ".kept"
    known = len(processor.tokenizer) - 1  # the original has no rows of padding
    signal = Activations(COINCIDE["layers"])
    found: dict[str, list[torch.Tensor]] = {"activations": [], "el2n": [], "aum": []}
    with torch.inference_mode():
        for batch in batched(processor, tmp_path, change):
            done = run(model, batch, [signal, TokenScores()])
            logits, labels = done.answer_logits()
            found["activations"].append(signal.read(done))
            found["el2n"].append(el2n(logits[..., :known], labels))
            found["aum"].append(aum(logits[..., :known], labels))
    for name, values in found.items():
        np.testing.assert_allclose(torch.cat(values).numpy(), RECORDED[name + suffix], atol=2e-6)


def test_the_processor_is_the_model_s(source: TinyLlava, converted: Path, tmp_path: Path) -> None:
    source.processor().write(tmp_path)
    made = sorted(tmp_path.iterdir())
    assert made
    assert all(file.read_bytes() == (converted / file.name).read_bytes() for file in made)


def test_key_follows_the_weights(source: TinyLlava, tmp_path: Path) -> None:
    moved = make_tinyllava(tmp_path / "elsewhere")
    same = TinyLlava(repo=str(moved), tower=f"{moved}-SigLIP")
    assert same.step().key == source.step().key
    other = TinyLlava(repo=str(make_tinyllava(tmp_path / "b", layers=5)), tower=source.tower)
    assert other.step().key != source.step().key


def test_without_its_vocabulary(source: TinyLlava, tmp_path: Path) -> None:
    folder = make_tinyllava(tmp_path / "model")
    (folder / "arcade100k.tiktoken").unlink()
    broken = TinyLlava(repo=str(folder), tower=source.tower)
    with pytest.raises(UserError, match=r"has no arcade100k\.tiktoken"):
        Store(tmp_path / "store").ensure(broken.step())


def test_another_tower_is_refused(source: TinyLlava, tmp_path: Path) -> None:
    wrong = TinyLlava(repo=source.repo, tower=source.repo)
    with pytest.raises(UserError, match="another kind of model"):
        Store(tmp_path / "store").ensure(wrong.step())
