"""Tiny image-text models whose decoders keep other states than every key, and prompts for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from coincide.models.encode import IGNORE, Encoded

TEXT = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16,
    "max_position_embeddings": 4096, "bos_token_id": None, "pad_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
PICTURE = 5
"""Token id at a picture's places."""
SIGLIP = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
MROPE = {
    "rope_type": "default", "mrope_section": [1, 1, 0], "rope_theta": 10000.0,
    "partial_rotary_factor": 0.25,
}  # fmt: skip
Inputs = Mapping[str, torch.Tensor]


def gemma3(window: int) -> Any:
    """Every second block sees a window; a picture's tokens see each other both ways."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {
        **TEXT, "sliding_window": window, "query_pre_attn_scalar": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    }  # fmt: skip
    config = Gemma3Config(
        text_config=text, vision_config=SIGLIP, mm_tokens_per_image=4, image_token_index=PICTURE
    )
    return Gemma3ForConditionalGeneration(config)


def paligemma() -> Any:
    """The whole prompt sees itself both ways."""
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

    text = {**TEXT, "model_type": "gemma", "num_image_tokens": 16}
    config = PaliGemmaConfig(
        text_config=text, vision_config={**SIGLIP, "projection_dim": 32}, image_token_index=PICTURE,
        projection_dim=32, hidden_size=32,
    )  # fmt: skip
    return PaliGemmaForConditionalGeneration(config)


def qwen3_5() -> Any:
    """Linear attention in the first block; positions in three directions."""
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    text = {
        **TEXT, "linear_key_head_dim": 16, "linear_value_head_dim": 16, "rope_parameters": MROPE,
        "linear_num_key_heads": 2, "linear_num_value_heads": 2,
        "layer_types": ["linear_attention", "full_attention", "full_attention"],
    }  # fmt: skip
    config = Qwen3_5Config(
        text_config=text,
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2,
            "out_hidden_size": 32, "num_position_embeddings": 64, "patch_size": 16,
        },
        image_token_id=PICTURE, video_token_id=6, vision_start_token_id=7, vision_end_token_id=8,
    )  # fmt: skip
    return Qwen3_5ForConditionalGeneration(config)


def lfm2_vl() -> Any:
    """A short convolution in the first block."""
    from transformers import Lfm2VlConfig, Lfm2VlForConditionalGeneration

    text = {k: v for k, v in TEXT.items() if k != "head_dim"} | {
        "layer_types": ["conv", "full_attention", "full_attention"], "block_multiple_of": 16,
    }  # fmt: skip
    vision = {**SIGLIP, "num_patches": 64, "vision_use_head": False}
    config = Lfm2VlConfig(
        text_config={**text, "model_type": "lfm2"}, vision_config=vision, image_token_id=PICTURE
    )
    return Lfm2VlForConditionalGeneration(config)


def square(generator: torch.Generator) -> Inputs:
    """A picture of 32 x 32."""
    return {"pixel_values": torch.randn(1, 3, 32, 32, generator=generator, dtype=torch.float64)}


def patches(generator: torch.Generator) -> Inputs:
    """A picture of 4 x 4 patches of 16 x 16, two frames of it."""
    pixels = torch.randn(16, 3 * 2 * 16 * 16, generator=generator, dtype=torch.float64)
    return {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 4, 4]])}


def tiles(generator: torch.Generator) -> Inputs:
    """A tile of 4 x 4 patches of 8 x 8."""
    return {
        "pixel_values": torch.randn(1, 16, 3 * 8 * 8, generator=generator, dtype=torch.float64),
        "spatial_shapes": torch.tensor([[4, 4]]),
        "pixel_attention_mask": torch.ones(1, 16, dtype=torch.int64),
    }


KINDS: dict[str, tuple[Callable[[], Any], Callable[[torch.Generator], Inputs], int, str | None]] = {
    "a window that all fits in": (lambda: gemma3(512), square, 4, "token_type_ids"),
    "a window that is exceeded": (lambda: gemma3(12), square, 4, "token_type_ids"),
    "linear attention": (qwen3_5, patches, 4, "mm_token_type_ids"),
    "convolutions": (lfm2_vl, tiles, 4, None),
    "both ways": (paligemma, square, 16, "token_type_ids"),
}
"""Kind of decoder -> model, picture, tokens of a picture, name of its token types."""


def prompts(kind: str, lengths: Sequence[Sequence[int]]) -> list[Encoded]:
    """For every picture, questions of the given numbers of tokens behind it."""
    _, picture, width, types = KINDS[kind]
    generator = torch.Generator().manual_seed(1)
    found = []
    for wanted in lengths:
        inputs = dict(picture(generator))
        for length in wanted:
            asked = torch.randint(10, 64, (length,), generator=generator)
            ids = torch.cat([torch.tensor([9, 7, *[PICTURE] * width, 8]), asked])
            shown = ids == PICTURE
            extra = {k: v for k, v in inputs.items() if k != "pixel_values"}
            if types:
                extra[types] = shown.long() if kind != "both ways" else torch.zeros_like(ids)
            labels = torch.full_like(ids, IGNORE)
            found.append(Encoded(ids, labels, shown, ~shown, inputs["pixel_values"], extra))
    return found
