"""Models of real shapes with random weights, and a dataset made for them, for the benches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from coincide.features.engine.devices import device_of
from coincide.models.tiny import SIZES_OF, WORDS, make_model, make_processor
from coincide.schema import Dataset, Example, Turn
from coincide.store import Build, Step

TEMPLATE = "tiny"
STABLELM_2: dict[str, Any] = {
    "vocab_size": 100352, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24,
    "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096,
    "use_qkv_bias": True,
}  # fmt: skip
SIGLIP_384: dict[str, Any] = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 26,
    "num_attention_heads": 16, "image_size": 384, "patch_size": 14, "vision_use_head": False,
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """What is built for a bench."""

    side: tuple[int, int]
    """Height and width of the pictures."""
    words: int
    """Median length of a conversation, in words of one token each."""
    layers: tuple[int, ...]
    """Those that COINCIDE reads."""
    dtype: str
    max_length: int


SHAPES = {
    "tiny": Shape((48, 48), 16, (1, 2, 3, 4, 5), "float32", 512),
    "tinyllava_2b": Shape((480, 640), 90, (3, 7, 11, 15, 19), "float16", 3072),
    "llava_1_5_tokens": Shape((336, 336), 125, (2, 3, 4, 5), "float32", 2048),
}
"""``llava_1_5_tokens``: a narrow model that reads as many tokens as LLaVA-1.5 does, 576 of them the
image's, of conversations as long as those of LLaVA-665K; its tower is as small a part."""
NARROW_TEXT: dict[str, Any] = {
    "vocab_size": 2048, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 8,
    "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 4096,
}  # fmt: skip
NARROW_336: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4,
    "num_attention_heads": 2, "image_size": 336, "patch_size": 14, "vision_use_head": False,
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """Random weights of a shape as a model source."""

    name: str
    max_length: int
    template: str = TEMPLATE

    def step(self) -> Step:
        """The folder."""
        return Step("model", self.name, 1, {"shape": self.name}, self._build)

    def _build(self, build: Build) -> None:
        processor = make_processor()
        if self.name == "tiny":
            model = make_model(SIZES_OF["tiny_ref"], processor.tokenizer)
        elif self.name == "tinyllava_2b":
            model, processor = shaped(processor.tokenizer, STABLELM_2, SIGLIP_384)
            model = model.half()
        else:
            model, processor = shaped(processor.tokenizer, NARROW_TEXT, NARROW_336)
        model.save_pretrained(build.dir / "model")
        processor.save_pretrained(build.dir / "model")


def shaped(tokenizer: Any, text_config: Any, tower_config: Any) -> tuple[Any, Any]:
    """A LLaVA of these shapes with a small tokenizer, whose words are one token each."""
    from types import SimpleNamespace

    from transformers import LlavaForConditionalGeneration, SiglipVisionConfig, StableLmConfig

    from coincide.models import assemble

    half = SimpleNamespace(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    tower = SiglipVisionConfig(**tower_config)
    text = StableLmConfig(**text_config)
    text.dtype = torch.float16 if text_config is STABLELM_2 else torch.float32
    config = assemble.make_config(tokenizer, text, tower, layer=-1, cls_token=False)
    config.text_config.vocab_size = text_config["vocab_size"]
    with torch.device(device_of("auto")):
        model = LlavaForConditionalGeneration(config)
    return model, assemble.make_processor(tokenizer, half, tower, cls_token=False)


@cache
def one_token_words() -> list[str]:
    """The words that the small tokenizer reads as one token, so that a length is what it says."""
    tokenizer = make_processor().tokenizer
    return [word for word in WORDS if len(tokenizer.tokenize(f" {word}")) == 1]


@dataclass(frozen=True)
class Source:
    """Made pictures and conversations as a data source."""

    rows: int
    images: Path
    shape: Shape
    name: str = "bench"

    def step(self) -> Step:
        """An artifact that says how many rows there are."""
        return Step("data", self.name, 1, {"rows": self.rows}, lambda build: {"rows": self.rows})

    def open(self, artifact: Path) -> Dataset:
        """The same examples each time."""
        return Dataset(self.name, artifact / "x.json", self.images, self.examples)

    @cached_property
    def examples(self) -> tuple[Example, ...]:
        """Rows whose images repeat as a geometric distribution has it: most are shown once."""
        random = np.random.default_rng(0)
        found, image = [], 0
        for row in range(self.rows):
            image += int(random.random() < 0.75)
            name = f"{image if random.random() < 0.9 else random.integers(image + 1)}.jpg"
            count = int(np.clip(random.lognormal(np.log(self.shape.words), 0.8), 4, 1500))
            words = random.choice(one_token_words(), count).tolist()
            half = max(1, count // 2)
            said = (" ".join(words[:half]), " ".join(words[half:]) or "yes")
            shown = row % 16 != 0
            turns = (
                Turn("human", f"<image>\n{said[0]}" if shown else said[0]),
                Turn("gpt", said[1]),
            )
            found.append(Example(row, str(row), (name,) if shown else (), turns, ""))
        return tuple(found)

    def draw(self) -> None:
        """Write the pictures: smooth noise, which a JPEG holds about as well as a photograph."""
        for name in {name for example in self.examples for name in example.images}:
            random = np.random.default_rng(int(Path(name).stem))
            small = random.integers(0, 255, (self.shape.side[0] // 8, self.shape.side[1] // 8, 3))
            picture = Image.fromarray(small.astype(np.uint8)).resize(self.shape.side[::-1])
            picture.save(self.images / name, quality=90)
