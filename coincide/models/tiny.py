"""LLaVA models of about a million parameters for the demo's pictures, fast on a CPU.

Real ``LlavaForConditionalGeneration``: CLIP vision tower, two-layer projector, Llama. Their weights
come from stage 1 (``coincide.models.pretrain``) and ship with the project.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coincide.data.demo.world import (
    CELL,
    COLOURS,
    GRID,
    LETTERS,
    NUMBERS,
    SHAPES,
    SIDE,
    SIZES,
    TEXTURES,
)
from coincide.models.processor import ProcessorFiles
from coincide.schema import HealthError, UserError
from coincide.store import Build, Step
from coincide.system.files import sha256_file

ASSETS = Path(__file__).resolve().parent.parent / "assets" / "tiny"
VERSION = 1
GATE = 0.9
"""Required share of correct colour and shape words in held-out captions."""


@dataclass(frozen=True)
class TinyArchitecture:
    """Widths and depths of one tiny model."""

    hidden: int
    layers: int
    heads: int
    mlp: int
    vision_layers: int


SIZES_OF = {
    "tiny": TinyArchitecture(hidden=128, layers=6, heads=4, mlp=256, vision_layers=2),
    "tiny_ref": TinyArchitecture(hidden=96, layers=6, heads=4, mlp=192, vision_layers=2),
}

PROMPT_WORDS = """
top left right center bottom empty digit letter bar bars , : . ? USER ASSISTANT What Which Where
Is How Are there the is in this picture a an of at to colour shape size many things thing written
number highest high than more yes no or and Answer with one word letter Describe Read largest
lowest same different above below circles squares triangles crosses rings stars nothing it I see
Say after me word
"""
WORDS = (*COLOURS, *SHAPES, *TEXTURES, *SIZES, *NUMBERS, *LETTERS, *PROMPT_WORDS.split())
"""Order decides the token ids, on which the shipped weights depend."""


def make_processor() -> Any:
    """Tokenizer and image processor: no resizing; mean and standard deviation 0.5."""
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from coincide.models.tokenizer import make_tokenizer

    images = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=make_tokenizer(WORDS),
        patch_size=CELL,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def make_model(size: TinyArchitecture, tokenizer: Any) -> Any:
    """The architecture with random weights from torch's global generator."""
    from transformers import (
        AutoModelForImageTextToText,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
    )

    shared: dict[str, Any] = {
        "hidden_size": size.hidden,
        "intermediate_size": size.mlp,
        "num_attention_heads": size.heads,
    }
    vision = CLIPVisionConfig(
        num_hidden_layers=size.vision_layers, image_size=SIDE, patch_size=CELL, **shared
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=size.layers,
        num_key_value_heads=size.heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **shared,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=GRID**2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    return AutoModelForImageTextToText.from_config(config)


@dataclass(frozen=True)
class Tiny:
    """A tiny model as reference or target: shipped weights, checked against ``GATE``."""

    size: str
    name: str = "tiny"
    template: str = "tiny"
    max_length: int = 512
    layers: Sequence[int] = ()
    """For a reference: decoder layers that COINCIDE reads, counted from 0."""
    dtype: str = "float64"
    """For a reference: precision of the feature pass. With float64 the values do not depend on
    batching."""
    words: Sequence[str] = ()
    """Words that captions lack and instructions need: their embeddings are drawn anew
    (:func:`draw_words`)."""

    def __post_init__(self) -> None:
        if self.size not in SIZES_OF:
            raise UserError(f"size={self.size!r}: the choices are {', '.join(SIZES_OF)}.")
        if not self.weights.is_file():
            raise UserError(
                f"{self.weights} is missing: python -m coincide.models.pretrain {self.size}"
            )

    @property
    def weights(self) -> Path:
        """Path of the shipped weights."""
        return ASSETS / f"{self.size}.safetensors"

    def processor(self) -> ProcessorFiles:
        """Both sizes have the same, made by code."""
        return ProcessorFiles(
            {"tiny": VERSION}, lambda folder: make_processor().save_pretrained(folder)
        )

    def step(self) -> Step:
        """The step that makes the model folder from the shipped weights, after checking its
        captions.
        """
        config: dict[str, Any] = {"size": self.size, "weights": sha256_file(self.weights)}
        if self.words:
            config["words"] = list(self.words)
        return Step("model", self.size, VERSION, config, self._build)

    def _build(self, build: Build) -> Mapping[str, Any]:
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        processor = make_processor()
        model = load_shipped(self.size, processor)
        if self.words:
            draw_words(model, processor.tokenizer, self.words)
        figures = gate(model, processor, self.size)
        model.save_pretrained(build.dir / "model")
        processor.save_pretrained(build.dir / "model")
        return figures


def load_shipped(size: str, processor: Any, folder: Path = ASSETS) -> Any:
    """The model ``size`` with its shipped weights (stored in fp16), as float32, in evaluation
    mode.

    Raises UserError if they do not fit the model.
    """
    import torch
    from safetensors.torch import load_file

    with torch.random.fork_rng(devices=[]):
        model = make_model(SIZES_OF[size], processor.tokenizer)
    state = {k: v.float() for k, v in load_file(folder / f"{size}.safetensors").items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise UserError(f"{size}.safetensors does not fit the model: {missing}, {unexpected}.")
    model.tie_weights()
    return model.eval()


def draw_words(model: Any, tokenizer: Any, words: Sequence[str]) -> None:
    """Give ``words`` random directions, at the median norm of the colours' embeddings.

    Stage 1 pushes all tokens that captions lack the same way, so that `yes` and `no` have a cosine
    of 0.99 and, with the head tied to frozen embeddings, never more than 2 % probability whatever
    LoRA learns. A language model of real size knows the words before it sees a picture. Raises
    UserError for a word that is no single token.
    """
    import torch

    def tokens(word: str) -> list[int]:
        ids: list[int] = tokenizer(f" {word}", add_special_tokens=False).input_ids
        return ids

    table = model.get_input_embeddings().weight.data
    known = [ids[0] for ids in map(tokens, COLOURS) if len(ids) == 1]
    length = table[known].norm(dim=1).median()
    drawn = torch.randn(len(words), table.shape[1], generator=torch.Generator().manual_seed(0))
    for word, direction in zip(words, drawn, strict=True):
        if len(ids := tokens(word)) != 1:
            raise UserError(f"words: {word!r} is {len(ids)} tokens here; expected a word of one.")
        table[ids[0]] = direction / direction.norm() * length


def gate(model: Any, processor: Any, size: str) -> dict[str, Any]:
    """Caption accuracy on held-out scenes; HealthError if it is below ``GATE``."""
    from coincide.models.perception import caption_accuracy

    figures = caption_accuracy(model, processor, scenes=256, seed=7)
    low = {k: v for k, v in figures.items() if k in ("colour", "shape") and v <= GATE}
    if low:
        raise HealthError(
            f"{size} fails the perception gate: {json.dumps(low)}, expected above {GATE}. "
            "Train it again: python -m coincide.models.pretrain " + size
        )
    return {"perception": figures}
