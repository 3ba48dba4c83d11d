"""What tiny models of all families are made of: tokenizers, small configurations, processors.

Nothing is downloaded. A family's configuration is the default of its class in transformers with all
sizes made small; its tokenizer is trained on a few words; its processor is the family's own.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WORDS = (
    "what colour is the circle red green blue yellow many colours",
    "how many squares are there one two three four",
    "yes no left right above below nothing but a large triangle",
    "user assistant system model human you are a helpful assistant",
)


@dataclass(frozen=True)
class TinyFamily:
    """A family as it is built: ``config`` is laid over the small default configuration."""

    model_type: str
    config: Mapping[str, Any]
    processor: Any


Builder = Callable[[], TinyFamily]
BUILDERS: dict[str, Builder] = {}


def family(name: str) -> Callable[[Builder], Builder]:
    """Register a builder under ``name``."""

    def keep(builder: Builder) -> Builder:
        BUILDERS[name] = builder
        return builder

    return keep


# --- tokenizers ---------------------------------------------------------------------------------


def tokenizer(
    special: Sequence[str],
    eos: str,
    bos: str | None = None,
    *,
    named: Mapping[str, str] | None = None,
    pad: str = "<pad>",
    puts_bos: bool = True,
) -> Any:
    """A byte-level BPE tokenizer with ``special`` tokens; ``named`` are attributes of it as well.

    With ``bos`` it puts that token in front of every text, unless ``puts_bos`` is off.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    named = dict(named or {})
    every = list(dict.fromkeys([pad, *special, *named.values(), eos, *([bos] if bos else [])]))
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=380 + len(every),
        special_tokens=every,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(WORDS, trainer)
    if bos and puts_bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A",
            pair=f"{bos} $A $B",
            special_tokens=[(bos, core.token_to_id(bos))],
        )
    begin = {"bos_token": bos} if bos else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=eos, pad_token=pad, extra_special_tokens=named, **begin
    )


def number(tok: Any, token: str) -> int:
    """The id of ``token``."""
    found = tok.convert_tokens_to_ids(token)
    assert isinstance(found, int)
    return found


def text(tok: Any, **over: Any) -> dict[str, Any]:
    """Fields of a text configuration that the tokenizer decides, and ``over``."""
    return {
        "vocab_size": len(tok),
        "pad_token_id": tok.pad_token_id,
        "bos_token_id": tok.bos_token_id,
        "eos_token_id": tok.eos_token_id,
        **over,
    }


# --- configurations -----------------------------------------------------------------------------

LAYERS = 3
"""Decoder blocks of every family."""
SMALL = {
    32: "hidden_size d_model embed_dim n_embd out_hidden_size projection_dim hidden_dim "
    "text_hidden_size connector_dim cross_attention_hidden_size output_dim vision_output_dim "
    "vision_hidden_size embed_vision_hidden_size projector_hidden_size mm_hidden_size "
    "vision_embed_dim",
    64: "intermediate_size ffn_dim moe_intermediate_size shared_expert_intermediate_size mlp_dim "
    "encoder_ffn_dim decoder_ffn_dim d_ff ffn_hidden_size shared_intermediate_size "
    "intermediate_size_mlp",
    2: "depth encoder_layers decoder_layers num_global_layers num_attention_heads num_heads "
    "n_heads n_head num_key_value_heads encoder_attention_heads decoder_attention_heads "
    "attention_heads num_global_key_value_heads num_experts_per_tok moe_k moe_topk",
    16: "head_dim v_head_dim qk_nope_head_dim qk_rope_head_dim global_head_dim qk_head_dim "
    "q_lora_rank kv_lora_rank",
    4: "num_experts n_routed_experts num_local_experts moe_num_experts",
    4096: "max_position_embeddings",
}
SIZES = {name: size for size, names in SMALL.items() for name in names.split()}
DEPTHS = {"num_hidden_layers", "num_layers", "n_layer", "n_layers"}
WHOLE = {"rope_parameters", "rope_scaling", "id2label", "label2id", "per_layer_config"}
TOWER = re.compile(r"vision|visual|vit|sam|image|audio|video|encoder_config|vq")
DELETED = "__deleted__"


def small(default: Mapping[str, Any], vocabulary: int, inside: str = "") -> dict[str, Any]:
    """A default configuration with every size made small."""
    tower = TOWER.search(inside)
    found: dict[str, Any] = {}
    for name, value in default.items():
        if name == "layer_types":
            continue
        if isinstance(value, Mapping) and name not in WHOLE:
            found[name] = small(value, vocabulary, f"{inside}.{name}")
        elif name in DEPTHS and isinstance(value, int):
            found[name] = 2 if tower else LAYERS
        elif name == "vocab_size" and not tower:
            found[name] = vocabulary
        elif name in SIZES and isinstance(value, int):
            found[name] = SIZES[name]
        elif name in SIZES and isinstance(value, list) and SIZES[name] == 64:
            found[name] = [64] * LAYERS
        else:
            found[name] = value
    return found


def laid_over(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` laid over it, part by part; ``DELETED`` takes a field out."""
    for name, value in over.items():
        inner = base.get(name)
        if value == DELETED:
            base.pop(name, None)
        elif isinstance(value, Mapping) and isinstance(inner, dict) and name not in WHOLE:
            laid_over(inner, value)
        else:
            base[name] = value
    return base


def configuration(made: TinyFamily) -> Any:
    """The configuration object of a tiny family."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = CONFIG_MAPPING[made.model_type]
    vocabulary = len(made.processor.tokenizer)
    return kind.from_dict(laid_over(small(kind().to_dict(), vocabulary), made.config))


CLIP: dict[str, Any] = {
    "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 16,
    "projection_dim": 32,
}  # fmt: skip
SIGLIP: dict[str, Any] = {
    "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
    "vision_use_head": False,
}  # fmt: skip
MULTIMODAL_ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
GRID = [[32, 32], [32, 64], [64, 32], [64, 64]]
"""Shapes of tiles that LLaVA-NeXT's kin choose from."""


# --- processors ---------------------------------------------------------------------------------


def pictures(module: str, name: str, **settings: Any) -> Any:
    """The image processor ``name`` of a family, with Pillow where it has one."""
    prefix = "image_processing_pil_" if name.endswith("Pil") else "image_processing_"
    found = importlib.import_module(f"transformers.models.{module}.{prefix}{module}")
    return getattr(found, name)(**settings)


def clip_pictures(side: int = 32) -> Any:
    return pictures(
        "clip", "CLIPImageProcessorPil",
        size={"shortest_edge": side}, crop_size={"height": side, "width": side},
    )  # fmt: skip


def qwen_pictures(patch: int = 14) -> Any:
    side = 2 * patch
    return pictures(
        "qwen2_vl", "Qwen2VLImageProcessorPil", patch_size=patch,
        size={"shortest_edge": side**2, "longest_edge": 9 * side**2},
    )  # fmt: skip


def square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}
