"""Miniature checkpoints in the formats in which the real ones are published.

Same files, same tensor names, same dtypes and same oddities (stored ``inv_freq`` and
``position_ids``, pickled shards, a tokenizer without ``tokenizer.json``, a tower that lacks its
last layer); widths of 32 and few layers. Each tensor is drawn from its own name, so that the
numbers are the same on every machine and under every version of torch.

Run as ``python -m tests.mini.checkpoints FOLDER`` to write all of them below ``FOLDER``.
"""

from __future__ import annotations

import base64
import json
import struct
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, HEADS, MLP = 32, 2, 64
PATCH, GRID = 14, 4
SIDE = PATCH * GRID
"""Pixels of an image: 16 patches."""
ASSETS = Path(__file__).parents[1] / "assets" / "llava"
WORDS = """
 A chat between a curious user and an artificial intelligence assistant. The assistant gives
 helpful, detailed, and polite answers to the user's questions. USER: ASSISTANT: What is in this
 picture of the red blue green circle square Answer with one word yes no left right
"""
SPECIAL = [
    "<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<gh_stars>", "<filename>", "<issue_start>", "<issue_comment>", "<issue_closed>",
    "<jupyter_start>", "<jupyter_text>", "<jupyter_code>", "<jupyter_output>", "<empty_output>",
    "<commit_before>", "<commit_msg>", "<commit_after>", "<reponame>", "<|endofprompt|>",
    "<|im_start|>", "<|im_end|>", "<|pause|>", *(f"<|reg{i}|>" for i in range(8)), "<|extra0|>",
]  # fmt: skip
"""Special tokens of StableLM-2's Arcade100k, in order of their ids."""
OPENAI = {
    "_name_or_path": "", "add_cross_attention": False, "architectures": None, "prefix": None,
    "attention_dropout": 0.0, "length_penalty": 1.0, "bad_words_ids": None,
    "chunk_size_feed_forward": 0, "cross_attention_hidden_size": None,
    "decoder_start_token_id": None, "do_sample": False, "dropout": 0.0, "early_stopping": False,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "initializer_factor": 1.0, "initializer_range": 0.02, "is_decoder": False,
    "max_length": 20, "min_length": 0, "num_beams": 1, "output_attentions": False,
    "problem_type": None, "pruned_heads": {}, "repetition_penalty": 1.0, "return_dict": True,
    "temperature": 1.0, "tie_encoder_decoder": False, "tie_word_embeddings": True, "top_k": 50,
    "top_p": 1.0, "torch_dtype": None, "torchscript": False, "transformers_version": "4.16.0.dev0",
    "typical_p": 1.0, "use_bfloat16": False,
}  # fmt: skip
"""What transformers of 2022 wrote into CLIP's sub-configurations, used by nothing."""

Shapes = dict[str, tuple[int, ...]]


def tensors(shapes: Mapping[str, tuple[int, ...]], dtype: Any, salt: str = "") -> dict[str, Any]:
    """A tensor per name: norm weights near 1, the rest within +-0.3, from the name's checksum."""
    import torch

    made = {}
    for name, shape in shapes.items():
        bits = np.random.PCG64(zlib.crc32(f"{salt}{name}".encode())).random_raw(int(np.prod(shape)))
        values = ((bits >> 11) * 2.0**-53 - 0.5) * 0.6
        if "norm" in name and name.endswith("weight"):
            values += 1.0
        made[name] = torch.from_numpy(values.reshape(shape)).to(dtype)
    return made


# --- Vicuna ------------------------------------------------------------------------------------


def make_vicuna(folder: Path, *, layers: int = 4, legacy: bool = False) -> Path:
    """As lmsys/vicuna-7b-v1.5: two pickled float16 shards, a SentencePiece model, 700 pieces."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = sentencepiece_model(folder / "tokenizer.model")
    state = tensors(_llama(vocabulary, layers), torch.float16)
    for layer in range(layers):  # left behind by transformers 4.31
        name = f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"
        state[name] = 1.0 / 10000 ** (torch.arange(0, WIDTH // HEADS, 2) / (WIDTH // HEADS))
    _save_pickled(folder, state, shards=2)
    _write(folder / "config.json", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "vocab_size": vocabulary, "hidden_size": WIDTH, "intermediate_size": MLP,
        "num_hidden_layers": layers, "num_attention_heads": HEADS, "num_key_value_heads": HEADS,
        "hidden_act": "silu", "initializer_range": 0.02, "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5, "rope_scaling": None, "pretraining_tp": 1, "use_cache": True,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False,
        "torch_dtype": "float16", "transformers_version": "4.31.0",
        "_name_or_path": "vicuna-7b-v1.5",
    })  # fmt: skip
    _write(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
    special = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    _write(folder / "special_tokens_map.json", {
        "bos_token": {"content": "<s>", **special}, "eos_token": {"content": "</s>", **special},
        "pad_token": "<unk>", "unk_token": {"content": "<unk>", **special},
    })  # fmt: skip
    typed = {"__type": "AddedToken", **special}
    _write(folder / "tokenizer_config.json", {
        "add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False,
        "bos_token": {"content": "<s>", **typed}, "eos_token": {"content": "</s>", **typed},
        "unk_token": {"content": "<unk>", **typed}, "pad_token": None, "legacy": legacy,
        "model_max_length": 4096, "padding_side": "right", "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizer",
    })  # fmt: skip
    return folder


def sentencepiece_model(file: Path) -> int:
    """Write Llama's kind of SentencePiece model with the pieces of tests/assets/llava; count.

    Protocol buffers by hand: the module that comes with sentencepiece wants a newer protobuf
    than wandb allows.
    """
    vocabulary = json.loads((ASSETS / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    kinds = {"<unk>": 2, "<s>": 3, "</s>": 3} | {f"<0x{byte:02X}>": 6 for byte in range(256)}
    model = b""
    for piece, index in sorted(vocabulary["vocab"].items(), key=lambda item: item[1]):
        kind = kinds.get(piece, 1)
        score = struct.pack("<f", 259.0 - index if kind == 1 else 0.0)
        model += _field(1, _field(1, piece.encode()) + b"\x15" + score + b"\x18" + bytes([kind]))
    bpe, byte_fallback, split_digits = b"\x18\x02", b"\x98\x02\x01", b"\xc8\x01\x01"
    identity, keep_spaces = _field(1, b"identity"), b"\x20\x00"
    model += _field(2, bpe + split_digits + byte_fallback) + _field(3, identity + keep_spaces)
    file.write_bytes(model)
    return len(vocabulary["vocab"])


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    low, high = len(content) & 0x7F, len(content) >> 7
    size = bytes([low | 0x80, high]) if high else bytes([low])
    return bytes([number << 3 | 2]) + size + content


def _llama(vocabulary: int, layers: int) -> Shapes:
    shapes: Shapes = {"model.embed_tokens.weight": (vocabulary, WIDTH)}
    for layer in range(layers):
        block = f"model.layers.{layer}"
        shapes |= {f"{block}.self_attn.{p}_proj.weight": (WIDTH, WIDTH) for p in "qkvo"}
        shapes |= _gated(block)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{block}.{norm}.weight"] = (WIDTH,)
    return shapes | {"model.norm.weight": (WIDTH,), "lm_head.weight": (vocabulary, WIDTH)}


def _gated(block: str) -> Shapes:
    wide = {f"{block}.mlp.{name}_proj.weight": (MLP, WIDTH) for name in ("gate", "up")}
    return wide | {f"{block}.mlp.down_proj.weight": (WIDTH, MLP)}


# --- CLIP and LLaVA's projector ------------------------------------------------------------------


def make_clip_tower(folder: Path, *, layers: int = 3) -> Path:
    """As openai/clip-vit-large-patch14-336: the whole CLIPModel, pickled, float32."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    words = clip_tokenizer(folder)
    shapes: Shapes = {
        "text_model.embeddings.token_embedding.weight": (words, WIDTH),
        "text_model.embeddings.position_embedding.weight": (77, WIDTH),
        "vision_model.embeddings.class_embedding": (WIDTH,),
        "vision_model.embeddings.patch_embedding.weight": (WIDTH, 3, PATCH, PATCH),
        "vision_model.embeddings.position_embedding.weight": (GRID**2 + 1, WIDTH),
        "visual_projection.weight": (WIDTH, WIDTH),
        "text_projection.weight": (WIDTH, WIDTH),
        "logit_scale": (),
    }
    norms = ("vision_model.pre_layrnorm", "vision_model.post_layernorm")
    for norm in (*norms, "text_model.final_layer_norm"):
        shapes |= {f"{norm}.weight": (WIDTH,), f"{norm}.bias": (WIDTH,)}
    for tower in ("text_model", "vision_model"):
        shapes |= dict(_vision_blocks(tower, layers))
    state = tensors(shapes, torch.float32)
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    state["vision_model.embeddings.position_ids"] = torch.arange(GRID**2 + 1)[None]
    torch.save(state, folder / "pytorch_model.bin")
    shared = {
        "hidden_size": WIDTH, "intermediate_size": MLP, "num_hidden_layers": layers,
        "num_attention_heads": HEADS, "hidden_act": "quick_gelu", "projection_dim": WIDTH,
        "layer_norm_eps": 1e-5,
    }  # fmt: skip
    text = {"model_type": "clip_text_model", "vocab_size": words, "max_position_embeddings": 77,
            **OPENAI, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}  # fmt: skip
    vision = {"model_type": "clip_vision_model", "image_size": SIDE, "patch_size": PATCH}
    vision |= {**OPENAI, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    _write(folder / "config.json", {
        "architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": WIDTH,
        "initializer_factor": 1.0, "logit_scale_init_value": 2.6592, "torch_dtype": "float32",
        "transformers_version": None, "text_config_dict": None, "vision_config_dict": None,
        "text_config": {**shared, **text}, "vision_config": {**shared, **vision},
    })  # fmt: skip
    _write(folder / "preprocessor_config.json", {
        "crop_size": SIDE, "do_center_crop": True, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3, "size": SIDE,
    })  # fmt: skip
    return folder


def clip_tokenizer(folder: Path) -> int:
    """CLIP's ``vocab.json`` and ``merges.txt``, every byte and a few words; returns its size."""
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges: list[str] = []
    for word in sorted(set(WORDS.lower().split())):
        parts = [*word[:-1], f"{word[-1]}</w>"]
        left = parts[0]
        for part in parts[1:]:
            if left + part not in vocabulary:
                vocabulary.append(left + part)
                merges.append(f"{left} {part}")
            left += part
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    _write(folder / "vocab.json", {token: i for i, token in enumerate(vocabulary)})
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", "utf-8")
    _write(folder / "tokenizer_config.json", {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True,
        "unk_token": "<|endoftext|>", "bos_token": "<|startoftext|>", "pad_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>", "errors": "replace", "add_prefix_space": False,
    })  # fmt: skip
    return len(vocabulary)


def make_projector(file: Path) -> Path:
    """As llava-v1.5-mlp2x-336px-pretrain-vicuna-7b-v1.5: ``mm_projector.bin``, bfloat16."""
    import torch

    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tensors(_projector(), torch.bfloat16), file)
    return file


def _projector() -> Shapes:
    shapes: Shapes = {}
    for layer in (0, 2):
        shapes[f"model.mm_projector.{layer}.weight"] = (WIDTH, WIDTH)
        shapes[f"model.mm_projector.{layer}.bias"] = (WIDTH,)
    return shapes


def _vision_blocks(tower: str, layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Blocks as CLIP and SigLIP name them, in the text tower too."""
    for layer in range(layers):
        block = f"{tower}.encoder.layers.{layer}"
        linears = {f"self_attn.{p}_proj": (WIDTH, WIDTH) for p in ("q", "k", "v", "out")}
        linears |= {"mlp.fc1": (MLP, WIDTH), "mlp.fc2": (WIDTH, MLP)}
        for name, shape in linears.items():
            yield f"{block}.{name}.weight", shape
            yield f"{block}.{name}.bias", shape[:1]
        for norm in ("layer_norm1", "layer_norm2"):
            yield f"{block}.{norm}.weight", (WIDTH,)
            yield f"{block}.{norm}.bias", (WIDTH,)


# --- TinyLLaVA -----------------------------------------------------------------------------------


def make_tinyllava(folder: Path, *, layers: int = 4, vision_layers: int = 3) -> Path:
    """As bczhou/TinyLLaVA-2.0B: StableLM-2 and projector in float16, a tiktoken vocabulary.

    The tower is a repository of its own, and here the folder ``<folder>-SigLIP``.
    """
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    ranks = tiktoken_model(folder / "arcade100k.tiktoken")
    used = ranks + 1 + len(SPECIAL)
    vocabulary = -(-(used + 5) // 64) * 64
    state = tensors(_stablelm(vocabulary, layers) | _projector(), torch.float16, "tinyllava.")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    make_siglip_tower(folder.with_name(f"{folder.name}-SigLIP"), layers=vision_layers)
    _write(folder / "config.json", {
        "architectures": ["TinyLlavaStablelmForCausalLM"], "model_type": "tiny_llava_stablelm",
        "vocab_size": vocabulary, "hidden_size": WIDTH, "intermediate_size": MLP,
        "num_hidden_layers": layers, "num_attention_heads": HEADS, "num_key_value_heads": HEADS,
        "hidden_act": "silu", "max_position_embeddings": 4096, "norm_eps": 1e-5,
        "rope_pct": 0.25, "rope_theta": 10000, "use_qkv_bias": True, "tie_word_embeddings": False,
        "bos_token_id": ranks + 1, "eos_token_id": ranks + 1, "attention_dropout": 0.0,
        "initializer_range": 0.02, "use_cache": True, "torch_dtype": "float16",
        "mm_vision_tower": "bczhou/TinyLLaVA-2.0B-SigLIP", "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": WIDTH, "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch",
        "mm_patch_merge_type": "flat", "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False, "image_aspect_ratio": "pad", "use_mm_proj": True,
        "tokenizer_model_max_length": 3072, "tokenizer_padding_side": "right",
        "pad_token": "<|endoftext|>", "transformers_version": "4.37.2",
    })  # fmt: skip
    _write(folder / "tokenizer_config.json", {
        "tokenizer_class": "Arcade100kTokenizer", "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>", "model_max_length": 3072, "padding_side": "right",
        "auto_map": {"AutoTokenizer": ["tokenization_arcade100k.Arcade100kTokenizer", None]},
    })  # fmt: skip
    return folder


def make_siglip_tower(folder: Path, *, layers: int = 3) -> Path:
    """As bczhou/TinyLLaVA-2.0B-SigLIP: no pooling head, and the last of ``layers`` left out."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    shapes: Shapes = {
        "vision_model.embeddings.patch_embedding.weight": (WIDTH, 3, PATCH, PATCH),
        "vision_model.embeddings.patch_embedding.bias": (WIDTH,),
        "vision_model.embeddings.position_embedding.weight": (GRID**2, WIDTH),
        "vision_model.post_layernorm.weight": (WIDTH,),
        "vision_model.post_layernorm.bias": (WIDTH,),
        **dict(_vision_blocks("vision_model", layers - 1)),
    }
    state = tensors(shapes, torch.float16, "siglip.")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    _write(folder / "config.json", {
        "architectures": ["SigLipVisionModel"], "model_type": "siglip_vision_model",
        "hidden_size": WIDTH, "intermediate_size": MLP, "num_hidden_layers": layers,
        "num_attention_heads": HEADS, "num_channels": 3, "image_size": SIDE, "patch_size": PATCH,
        "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "attention_dropout": 0.0,
        "image_mean": [0.5, 0.5, 0.5], "torch_dtype": "float16",
    })  # fmt: skip
    return folder


def tiktoken_model(file: Path) -> int:
    """A tiktoken vocabulary: the bytes, then the prefixes of a few words; returns its size."""
    ranks = [bytes([byte]) for byte in range(256)]
    for word in WORDS.split():
        for form in (f" {word}".encode(), word.encode()):
            for end in range(2, len(form) + 1):
                if form[:end] not in ranks:
                    ranks.append(form[:end])
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(ranks)]
    file.write_text("\n".join(lines) + "\n", "utf-8")
    return len(ranks)


def _stablelm(vocabulary: int, layers: int) -> Shapes:
    shapes: Shapes = {"model.embed_tokens.weight": (vocabulary, WIDTH)}
    for layer in range(layers):
        block = f"model.layers.{layer}"
        shapes |= {f"{block}.self_attn.{p}_proj.weight": (WIDTH, WIDTH) for p in "qkvo"}
        shapes |= {f"{block}.self_attn.{p}_proj.bias": (WIDTH,) for p in "qkv"}
        shapes |= _gated(block)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes |= {f"{block}.{norm}.weight": (WIDTH,), f"{block}.{norm}.bias": (WIDTH,)}
    shapes |= {"model.norm.weight": (WIDTH,), "model.norm.bias": (WIDTH,)}
    return shapes | {"lm_head.weight": (vocabulary, WIDTH)}


# --- writing -------------------------------------------------------------------------------------


def _save_pickled(folder: Path, state: Mapping[str, Any], shards: int) -> None:
    """``pytorch_model-0000i-of-0000n.bin`` with the index that names each tensor's shard."""
    import torch

    names = list(state)
    size = -(-len(names) // shards)
    where: dict[str, str] = {}
    for number in range(shards):
        file = f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin"
        part = names[number * size : (number + 1) * size]
        torch.save({name: state[name] for name in part}, folder / file)
        where |= dict.fromkeys(part, file)
    total = sum(value.numel() * value.element_size() for value in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    _write(folder / "pytorch_model.bin.index.json", index)


def _write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


def make_all(root: Path) -> None:
    """Everything under the names of the real repositories: ``root/<owner>/<name>``."""
    make_vicuna(root / "lmsys" / "vicuna-7b-v1.5")
    make_clip_tower(root / "openai" / "clip-vit-large-patch14-336")
    projector = "llava-v1.5-mlp2x-336px-pretrain-vicuna-7b-v1.5"
    make_projector(root / "liuhaotian" / projector / "mm_projector.bin")
    make_tinyllava(root / "bczhou" / "TinyLLaVA-2.0B")


if __name__ == "__main__":
    make_all(Path(sys.argv[1]))
