"""Tiny Gemma and its kin, models with soft caps, and those that are refused."""

from __future__ import annotations

import transformers as tf
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.families import templates
from tests.families.parts import (
    PLAIN_ROPE,
    SIGLIP,
    TinyFamily,
    family,
    number,
    pictures,
    small,
    square,
    text,
    tokenizer,
)

TURNS = ["<start_of_turn>", "<end_of_turn>"]
MIXED = ["sliding_attention", "full_attention", "full_attention"]


@family("gemma3")
def gemma3() -> TinyFamily:
    named = {
        "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }  # fmt: skip
    tok = tokenizer(TURNS, "<eos>", "<bos>", named=named)
    texts = {
        "sliding_window": 64, "sliding_window_pattern": 2, "_sliding_window_pattern": 2,
        "query_pre_attn_scalar": 16,
    }  # fmt: skip
    config = {
        "text_config": text(tok, **texts), "vision_config": SIGLIP, "mm_tokens_per_image": 4,
        "boi_token_index": number(tok, "<start_of_image>"),
        "eoi_token_index": number(tok, "<end_of_image>"),
        "image_token_index": number(tok, "<image_soft_token>"),
    }  # fmt: skip
    images = pictures("gemma3", "Gemma3ImageProcessorPil", size=square(32))
    processor = tf.Gemma3Processor(
        images, tok, image_seq_length=4, chat_template=templates.gemma("<start_of_image>")
    )
    return TinyFamily("gemma3", config, processor)


@family("gemma4")
def gemma4() -> TinyFamily:
    """With a soft cap low enough to move the logits."""
    named = {
        "boi_token": "<|image>", "eoi_token": "<image|>", "image_token": "<|image|>",
        "boa_token": "<|audio>", "eoa_token": "<audio|>", "audio_token": "<|audio|>",
    }  # fmt: skip
    tok = tokenizer(["<|turn>", "<turn|>", "<|video|>"], "<eos>", "<bos>", named=named)
    tower = small(CONFIG_MAPPING["gemma4_vision"]().to_dict(), len(tok), ".vision_config")
    tower |= {"patch_size": 8, "head_dim": 16, "position_embedding_size": 64}
    texts = {
        "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": len(tok),
        "per_layer_config": {}, "layer_types": MIXED, "sliding_window": 64,
        "final_logit_softcapping": 1.0,
    }  # fmt: skip
    config = {
        "text_config": text(tok, **texts), "vision_config": {**tower, "pooling_kernel_size": 2},
        "boi_token_id": number(tok, "<|image>"), "eoi_token_id": number(tok, "<image|>"),
        "image_token_id": number(tok, "<|image|>"), "boa_token_id": number(tok, "<|audio>"),
        "eoa_token_index": number(tok, "<audio|>"), "audio_token_id": number(tok, "<|audio|>"),
        "video_token_id": number(tok, "<|video|>"),
    }  # fmt: skip
    images = pictures(
        "gemma4", "Gemma4ImageProcessorPil", patch_size=8, max_soft_tokens=70, pooling_kernel_size=2
    )
    processor = tf.Gemma4Processor(
        tf.Gemma4AudioFeatureExtractor(), images, tok, tf.Gemma4VideoProcessor(),
        chat_template=templates.gemma("<|image|>", "<|turn>", "<turn|>"),
    )  # fmt: skip
    return TinyFamily("gemma4", config, processor)


@family("muse_glimmer")
def muse_glimmer() -> TinyFamily:
    """With an output multiplier and a soft cap."""
    special = [
        "<|patch|>", "<|image_start|>", "<|image_end|>", "<|video|>", "<|vid_frame_separator|>",
        "<|vid_start|>", "<|vid_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    ]  # fmt: skip
    tok = tokenizer(special, "<|eot_id|>", "<|begin_of_text|>")
    texts = {
        "head_dim": 16, "layer_types": MIXED, "layer_rope_theta": [10000.0, 0, 10000.0],
        "final_logit_softcapping": 2.0, "output_multiplier": 0.2,
    }  # fmt: skip
    config = {
        "text_config": text(tok, **texts), "out_hidden_size": 128, "projector_hidden_size": 32,
        "vision_config": {
            "layer_types": ["full_attention"] * 2, "pos_emb_height": 4, "pos_emb_width": 4,
        },
        "image_token_id": number(tok, "<|patch|>"), "video_token_id": number(tok, "<|video|>"),
    }  # fmt: skip
    images = pictures("muse_glimmer", "MuseGlimmerImageProcessor", max_image_tokens=16)
    processor = tf.MuseGlimmerProcessor(
        images, tf.MuseGlimmerVideoProcessor(), tok, chat_template=templates.llama3("<|patch|>")
    )
    return TinyFamily("muse_glimmer", config, processor)


@family("paligemma")
def paligemma() -> TinyFamily:
    """With a chat template, which the published ones have not."""
    tok = tokenizer([*TURNS, "<image>"], "<eos>", "<bos>", named={"image_token": "<image>"})
    images = pictures("siglip", "SiglipImageProcessorPil", size=square(32))
    images.image_seq_length = 16
    # it adds tokens for places to the vocabulary
    processor = tf.PaliGemmaProcessor(images, tok, chat_template=templates.gemma("<image>"))
    config = {
        "text_config": text(tok, num_image_tokens=16),
        "vision_config": {**SIGLIP, "projection_dim": 32},
        "image_token_index": number(tok, "<image>"),
    }  # fmt: skip
    return TinyFamily("paligemma", config, processor)


@family("paligemma_as_published")
def paligemma_as_published() -> TinyFamily:
    made = paligemma()
    made.processor.chat_template = None
    return made


@family("emu3")
def emu3() -> TinyFamily:
    named = {
        "image_token": "<image>", "boi_token": "<|image start|>", "eoi_token": "<|image end|>",
        "image_wrapper_token": "<|image token|>", "eof_token": "<|extra_201|>",
    }  # fmt: skip
    tok = tokenizer([], "<|extra_204|>", "<|extra_203|>", named=named, puts_bos=False)
    codes = {f"<|visual token {i:06d}|>": 100 + i for i in range(32)}
    quantizer = {
        "codebook_size": 32, "embed_dim": 8, "latent_channels": 8, "base_channels": 32,
        "channel_multiplier": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [],
        "hidden_size": 32, "num_attention_heads": 1,
    }  # fmt: skip
    config = {
        "text_config": text(tok), "vq_config": quantizer,
        "vocabulary_map": {"<image>": number(tok, "<image>"), "<|extra_200|>": 2, **codes},
        "image_token_id": number(tok, "<image>"),
    }  # fmt: skip
    images = pictures("emu3", "Emu3ImageProcessor", min_pixels=32 * 32, max_pixels=64 * 64)
    return TinyFamily("emu3", config, tf.Emu3Processor(images, tok, chat_template=templates.emu()))


@family("got_ocr2")
def got_ocr2() -> TinyFamily:
    special = ["<|im_start|>", "<|im_end|>", "<img>", "</img>", "<imgpad>"]
    tok = tokenizer(special, "<|im_end|>", pad="<|endoftext|>")
    tower = {
        "image_size": 64, "patch_size": 16, "window_size": 2, "global_attn_indexes": [1],
        "output_channels": 8, "num_pos_feats": 4, "mlp_dim": 64,
    }  # fmt: skip
    config = {
        "text_config": text(tok), "vision_config": tower,
        "image_token_index": number(tok, "<imgpad>"),
    }  # fmt: skip
    images = pictures("got_ocr2", "GotOcr2ImageProcessorPil", size=square(64))
    template = templates.chatml("<img><imgpad></img>\n", system=False)
    return TinyFamily("got_ocr2", config, tf.GotOcr2Processor(images, tok, chat_template=template))


@family("blip-2")
def blip2() -> TinyFamily:
    tok = tokenizer(["<image>"], "</s>", "<s>")
    config = {
        "text_config": text(tok, word_embed_proj_dim=32),
        "vision_config": {"image_size": 32, "patch_size": 16}, "num_query_tokens": 4,
        "qformer_config": {"encoder_hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 32},
        "image_token_index": number(tok, "<image>"),
    }  # fmt: skip
    images = pictures("blip", "BlipImageProcessorPil", size=square(32))
    processor = tf.Blip2Processor(images, tok, num_query_tokens=4)
    processor.chat_template = templates.llava("<image>")
    return TinyFamily("blip-2", config, processor)


@family("chameleon")
def chameleon() -> TinyFamily:
    """Without a template, as published."""
    tok = tokenizer(["<image>", "<racm3:break>", "<eoss>"], "</s>", "<s>")
    tok.sep_token = "</s>"
    codes = {f"IMGIMG{chr(65 + i // 26)}{chr(65 + i % 26)}Z": 60 + i for i in range(16)}
    quantizer = {
        "num_embeddings": 16, "base_channels": 32, "channel_multiplier": [1, 1],
        "num_res_blocks": 1, "latent_channels": 8, "embed_dim": 8, "resolution": 32,
        "attn_resolutions": None,
    }  # fmt: skip
    config = {
        **text(tok), "vq_config": quantizer, "rope_parameters": PLAIN_ROPE,
        "vocabulary_map": {**codes, "<image>": number(tok, "<image>")},
    }  # fmt: skip
    images = pictures(
        "chameleon", "ChameleonImageProcessorPil", size={"shortest_edge": 32}, crop_size=square(32)
    )
    return TinyFamily("chameleon", config, tf.ChameleonProcessor(images, tok, image_seq_length=256))


@family("florence2")
def florence2() -> TinyFamily:
    """An encoder and a decoder, without a template, as published."""
    tok = tokenizer(["<image>"], "</s>", "<s>", named={"image_token": "<image>"})
    tower = {
        "depths": [1, 1], "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1],
        "patch_prenorm": [False, True], "embed_dim": [16, 32], "num_heads": [2, 2],
        "num_groups": [2, 2], "window_size": 4, "projection_dim": 32,
    }  # fmt: skip
    config = {
        "text_config": text(tok), "vision_config": tower, "image_token_id": number(tok, "<image>"),
    }  # fmt: skip
    images = pictures("clip", "CLIPImageProcessorPil", size=square(32), do_center_crop=False)
    processor = tf.Florence2Processor(images, tok, num_additional_image_tokens=1)
    return TinyFamily("florence2", config, processor)


@family("kosmos-2.5")
def kosmos2_5() -> TinyFamily:
    named = {"image_token": "<image>", "boi_token": "<image_s>", "eoi_token": "</image_s>"}
    tok = tokenizer([], "</s>", "<s>", named=named, puts_bos=False)
    config = {
        "text_config": text(tok, embed_dim=32, ffn_dim=64, layers=3, attention_heads=2),
        "vision_config": {"patch_embed_hidden_size": 768}, "latent_query_num": 8,
    }  # fmt: skip
    images = pictures("kosmos2_5", "Kosmos2_5ImageProcessorPil", max_patches=16)
    processor = tf.Kosmos2_5Processor(images, tok, num_image_tokens=8)
    return TinyFamily("kosmos-2.5", config, processor)
