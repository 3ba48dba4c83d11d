"""Assemble a ``LlavaForConditionalGeneration`` from parts that were published separately.

Tensors are copied from the sources' files to new ones under the names of the converted LLaVA
checkpoints on the Hub, each in its own precision; no model is held in memory. Rows of the
vocabulary that the sources did not train (``<image>``, padding to a multiple of 64) get the mean of
the trained ones: over V tokens, n such rows add at most log(1 + n / V) to any loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coincide.models.bpe import IMAGE
from coincide.models.tensors import write_tensors
from coincide.schema import UserError

if TYPE_CHECKING:
    import torch

MULTIPLE = 64
"""The vocabulary's rows are padded to a multiple of this, for fast kernels."""
PROJECTOR = "model.mm_projector."
LANGUAGE_PREFIX, VISION_PREFIX = "language_model.", "vision_tower."
Tensors = Mapping[str, "torch.Tensor"]


def vocabulary(tokenizer: Any) -> int:
    """Number of embedding rows of a model with ``tokenizer``."""
    return -(-len(tokenizer) // MULTIPLE) * MULTIPLE


def language(state: Tensors, known: int, rows: int) -> dict[str, torch.Tensor]:
    """The decoder's tensors with new names.

    The vocabulary is cut to ``known`` rows and padded to ``rows``.
    Raises UserError if one is missing.
    """
    kept = {name: t for name, t in state.items() if name.startswith(("model.", "lm_head."))}
    skip = ("rotary_emb.inv_freq", "mm_projector.", "vision_tower.")
    kept = {name: t for name, t in kept.items() if not any(word in name for word in skip)}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name not in kept:
            raise UserError(f"the language model's weights lack {name}: it holds another model.")
        kept[name] = resize_vocabulary(kept[name], known, rows)
    return {LANGUAGE_PREFIX + name: tensor for name, tensor in kept.items()}


def resize_vocabulary(weight: torch.Tensor, known: int, rows: int) -> torch.Tensor:
    """``weight`` [V, H] resized to [``rows``, H]: the first ``known`` rows, then their mean.

    Raises UserError if ``weight`` has fewer than ``known`` rows.
    """
    import torch

    if len(weight) < known:
        raise UserError(f"the tokenizer has {known} tokens, the model {len(weight)}: not a pair.")
    kept = weight[:known]
    mean = kept.float().mean(dim=0).to(weight.dtype)
    return torch.cat([kept, mean.expand(rows - known, -1)])


def vision(state: Tensors, unused: Iterable[str] = ()) -> dict[str, torch.Tensor]:
    """The vision tower's tensors with new names, without the text tower and ``unused`` tensors.

    Raises UserError if there are none.
    """
    skip = ("position_ids", *unused)
    tower = {
        VISION_PREFIX + name: tensor
        for name, tensor in state.items()
        if name.startswith("vision_model.") and not any(word in name for word in skip)
    }
    if not tower:
        raise UserError("the vision tower's weights have no vision_model.*: another kind of model.")
    return tower


def projector(state: Tensors) -> dict[str, torch.Tensor]:
    """LLaVA's ``mm_projector`` (``mlp2x_gelu``: layers 0 and 2 of a Sequential) with new names.

    Raises UserError if one is missing.
    """
    names = {
        f"{PROJECTOR}{number}.{part}": f"multi_modal_projector.linear_{position}.{part}"
        for position, number in ((1, 0), (2, 2))
        for part in ("weight", "bias")
    }
    missing = sorted(names.keys() - state.keys())
    if missing:
        raise UserError(
            f"the projector's weights lack {', '.join(missing)}: expected LLaVA's mlp2x_gelu."
        )
    return {new: state[old] for old, new in names.items()}


def make_processor(tokenizer: Any, images: Any, vision_config: Any, *, cls_token: bool) -> Any:
    """LLaVA's processor: images are padded to a square with the mean colour, then resized.

    ``images`` has the tower's ``image_mean`` and ``image_std``. ``cls_token``: the tower has a
    class token, which the model drops.
    """
    from transformers import LlavaImageProcessorPil, LlavaProcessor

    side = vision_config.image_size
    square = LlavaImageProcessorPil(
        do_pad=True,
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=list(images.image_mean),
        image_std=list(images.image_std),
    )
    return LlavaProcessor(
        image_processor=square,
        tokenizer=tokenizer,
        patch_size=vision_config.patch_size,
        vision_feature_select_strategy="default" if cls_token else "full",
        num_additional_image_tokens=int(cls_token),
    )


def make_config(tokenizer: Any, text: Any, tower: Any, *, layer: int, cls_token: bool) -> Any:
    """The model's configuration. ``layer``: index of the tower's hidden state that the projector
    reads.
    """
    from transformers import LlavaConfig

    text.vocab_size = vocabulary(tokenizer)
    text.pad_token_id = tokenizer.pad_token_id
    config = LlavaConfig(
        vision_config=tower,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=(tower.image_size // tower.patch_size) ** 2,
        vision_feature_layer=layer,
        vision_feature_select_strategy="default" if cls_token else "full",
        tie_word_embeddings=False,
    )
    config.architectures = ["LlavaForConditionalGeneration"]
    config.pad_token_id = tokenizer.pad_token_id
    config.dtype = text.dtype
    return config


def save(folder: Path, tensors: Tensors, config: Any, processor: Any) -> dict[str, Any]:
    """Write the model folder; returns facts for the manifest."""
    from transformers import GenerationConfig

    write_tensors(folder, tensors)
    config.save_pretrained(folder)
    tokens = {
        f"{n}_token_id": getattr(processor.tokenizer, f"{n}_token_id")
        for n in ("bos", "eos", "pad")
    }
    GenerationConfig(**tokens).save_pretrained(folder)
    processor.save_pretrained(folder)
    return {
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "vocabulary": config.text_config.vocab_size,
        "image_tokens": config.image_seq_length,
    }
