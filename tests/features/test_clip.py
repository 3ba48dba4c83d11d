"""The CLIP pass: transformers' own embeddings, each image once, whatever the batching."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from baselines.clip_score import cosine
from coincide.config import FeaturePass
from coincide.features.engine.shards import ShardedArray, read_valid
from coincide.features.extract import extract, signal_step
from coincide.features.forward import clip
from coincide.features.passes.clip import ClipPass
from coincide.features.signals.clip_image import ClipImage
from coincide.features.signals.clip_text import ClipText, conversation_text
from coincide.models.clip import TEXT_LIMIT, load_clip, make_clip, make_clip_processor
from coincide.models.load import load_processor
from coincide.schema import Example, Turn, UserError
from coincide.store import Artifact, Build, Step, Store
from tests.features.conftest import Source, rows
from tests.tiny_llava import make_tiny_llava

SIGNALS = (ClipImage(), ClipText("dialogue"), ClipText("question"))
IMAGES = 7


@dataclass(frozen=True)
class RandomClip:
    """A CLIP of the demo's architecture that has learnt nothing."""

    name: str = "random_clip"
    dtype: str = "float64"

    def step(self) -> Step:
        return Step("model", self.name, 1, {"random": "clip"}, self._build)

    def _build(self, build: Build) -> None:
        processor = make_clip_processor()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            make_clip(processor.tokenizer).save_pretrained(build.dir / "model")
        processor.save_pretrained(build.dir / "model")


def run_pass(root: Path, source: Source, **options: Any) -> list[Artifact]:
    store = Store(root)
    over = ClipPass(RandomClip(), source, FeaturePass(**options))
    data, base = source.step(), over.model.step()
    store.ensure(data)
    store.ensure(base)
    steps = {signal: signal_step(signal, over, data=data, base=base) for signal in SIGNALS}
    return extract(store, steps, over)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory, source: Source) -> list[Artifact]:
    return run_pass(tmp_path_factory.mktemp("store"), source)


def test_embeddings_are_those_of_transformers(artifacts: list[Artifact], source: Source) -> None:
    folder = next((artifacts[0].path.parent.parent / "model").iterdir()) / "model"
    model, processor = load_clip(folder, "float64", "cpu"), load_processor(folder)
    image, dialogue, question = (ShardedArray(a.path)[:] for a in artifacts)
    score = cosine(image, dialogue)
    for example in rows():
        if example.row in (3, 7):
            continue
        for form, ours in (("dialogue", dialogue), ("question", question)):
            tokens = processor.tokenizer(
                conversation_text(example, form),
                truncation=True,
                max_length=TEXT_LIMIT,
                return_tensors="pt",
            )
            picture = Image.open(source.images / (example.images or ("0.png",))[0])
            pixels = processor.image_processor(picture, return_tensors="pt")["pixel_values"]
            with torch.no_grad():
                expected = model(**tokens, pixel_values=pixels.double())
            np.testing.assert_allclose(ours[example.row], expected.text_embeds[0], atol=1e-6)
        if example.images:
            np.testing.assert_allclose(image[example.row], expected.image_embeds[0], atol=1e-6)
            both = text_and_image_cosine(
                model, processor, conversation_text(example, "dialogue"), pixels
            )
            assert score[example.row] == pytest.approx(both, abs=1e-6)


def text_and_image_cosine(model: Any, processor: Any, text: str, pixels: torch.Tensor) -> float:
    tokens = processor.tokenizer(text, truncation=True, max_length=TEXT_LIMIT, return_tensors="pt")
    with torch.no_grad():
        output = model(**tokens, pixel_values=pixels.double())
        return float(output.logits_per_image / model.logit_scale.exp())


def test_rows_without_an_image_are_valid_and_without_a_value(artifacts: list[Artifact]) -> None:
    image, dialogue = (ShardedArray(artifact.path)[:] for artifact in artifacts[:2])
    text_only = [e.row for e in rows() if not e.images and e.row != 3]
    assert np.isnan(image[text_only]).all()
    assert np.isfinite(dialogue[text_only]).all()
    for artifact in artifacts:
        assert np.flatnonzero(~read_valid(artifact.path)).tolist() == [3]  # dropped
    assert np.isnan(cosine(image, dialogue)[text_only]).all()


def test_several_images_have_the_direction_of_their_mean(artifacts: list[Artifact]) -> None:
    image = ShardedArray(artifacts[0].path)[:].astype(np.float64)
    one, two = image[1], image[2]  # rows that show 1.png and 2.png alone
    expected = (one + two) / np.linalg.norm(one + two)
    np.testing.assert_allclose(image[7], expected, atol=1e-6)


@pytest.mark.parametrize("shard_rows", [5, 1024])
def test_each_image_is_encoded_once(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch, shard_rows: int
) -> None:
    encoded: list[int] = []
    real = clip.ClipEncoder.images
    monkeypatch.setattr(
        clip.ClipEncoder, "images", lambda s, p: (encoded.append(len(p)), real(s, p))[1]
    )
    run_pass(tmp_path, source, shard_rows=shard_rows, batch_size=2)
    assert sum(encoded) == IMAGES


def test_an_embedding_is_let_go_after_the_last_row_that_shows_it(source: Source) -> None:
    dataset = source.open(Path())
    encoder = clip.ClipEncoder(make_clip(make_clip_processor().tokenizer), make_clip_processor(), 4)
    reader = clip.PixelReader(dataset, encoder.processor)
    once = clip.ImagesOnce(encoder, dataset, lambda tasks: map(reader, tasks))
    kept = [e for e in dataset.examples if e.row not in dataset.dropped]
    for at in range(0, len(kept), 6):
        once.embed(kept[at : at + 6])
    assert once.seen == {}


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 8}, {"shard_rows": 5}])
def test_the_same_values_however_they_are_computed(
    tmp_path: Path, artifacts: list[Artifact], source: Source, options: dict[str, int]
) -> None:
    for ours, theirs in zip(artifacts, run_pass(tmp_path, source, **options), strict=True):
        np.testing.assert_array_equal(ShardedArray(ours.path)[:], ShardedArray(theirs.path)[:])


def conversation(*texts: str) -> Example:
    roles = ("human", "gpt") * len(texts)
    turns = tuple(Turn(role, text) for role, text in zip(roles, texts, strict=False))  # type: ignore[arg-type]
    return Example(0, "0", ("0.png",), turns, "")


def test_text_of_many_turns() -> None:
    example = conversation("<image>\nwhat  is it?", "a cat", "and\nthis?", "a dog")
    assert conversation_text(example, "dialogue") == (
        "USER: what is it? ASSISTANT: a cat USER: and this? ASSISTANT: a dog"
    )
    assert conversation_text(example, "question") == "what is it? and this?"
    assert conversation_text(example, "answer") == "a cat a dog"
    assert conversation_text(conversation("<image>", ""), "dialogue") == ""
    said = (*example.turns[:1], replace(example.turns[1], learn=False), *example.turns[2:])
    assert conversation_text(replace(example, turns=said), "answer") == "a dog", (
        "a cat is not to be learnt"
    )
    with pytest.raises(UserError, match="dialogue, question, answer"):
        ClipText("both")


def test_text_is_cut_at_the_limit_and_empty_text_has_no_value() -> None:
    processor = make_clip_processor()
    encoder = clip.ClipEncoder(make_clip(processor.tokenizer), processor, 3)
    long, longer = "red circle " * 60, "red circle " * 90
    with torch.inference_mode():
        found = encoder.texts([long, longer, "", "red circle"])
    np.testing.assert_array_equal(found[0], found[1])
    assert np.isnan(found[2]).all()
    assert not np.array_equal(found[0], found[3])
    np.testing.assert_allclose(np.linalg.norm(found[[0, 3]], axis=1), 1, atol=1e-6)


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not load"):
        load_clip(tmp_path, "float32", "cpu")


def test_another_model_is_refused(tmp_path: Path) -> None:
    """Transformers would draw the missing weights at random and go on."""
    lacking = r"lacks weights of its own architecture, CLIPModel: .*logit_scale"
    with pytest.raises(UserError, match=lacking):
        load_clip(make_tiny_llava(tmp_path), "float32", "cpu")


@pytest.mark.parametrize("damage", ["cut", "nan"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: str) -> None:
    model = make_clip(make_clip_processor().tokenizer)
    if damage == "nan":
        with torch.no_grad():
            model.logit_scale.fill_(float("nan"))
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(UserError, match="does not load" if damage == "cut" else r"NaN .*logit"):
        load_clip(tmp_path, "float32", "cpu")
