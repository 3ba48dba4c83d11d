"""Tiny models that cut pictures into tiles, and those with inputs of a form of their own."""

from __future__ import annotations

import transformers as tf

from tests.families import templates
from tests.families.parts import (
    DELETED,
    PLAIN_ROPE,
    SIGLIP,
    TinyFamily,
    family,
    number,
    pictures,
    square,
    text,
    tokenizer,
)
from tests.families.qwen_kin import COHERE, LINEAR

CHATML = ["<|im_start|>", "<|im_end|>"]
LLAMA3 = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
IDEFICS_TOWER = {**SIGLIP, "model_type": DELETED, "vision_use_head": DELETED}


def places(first: str, size: int) -> list[str]:
    return [first % (i, j) for i in range(1, size + 1) for j in range(1, size + 1)]


@family("internvl")
def internvl() -> TinyFamily:
    named = {
        "start_image_token": "<img>", "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>",
    }  # fmt: skip
    tok = tokenizer(CHATML, "<|im_end|>", named=named, pad="<|endoftext|>")
    config = {
        "text_config": text(tok, model_type="qwen2"), "image_seq_length": 4,
        "vision_config": {"image_size": [32, 32], "patch_size": [8, 8]},
        "image_token_id": number(tok, "<IMG_CONTEXT>"),
    }  # fmt: skip
    images = pictures(
        "got_ocr2", "GotOcr2ImageProcessorPil", size=square(32), crop_to_patches=True, max_patches=4
    )
    processor = tf.InternVLProcessor(
        images, tok, tf.InternVLVideoProcessor(size=square(32)), image_seq_length=4,
        chat_template=templates.chatml("<IMG_CONTEXT>\n"),
    )  # fmt: skip
    return TinyFamily("internvl", config, processor)


@family("idefics3")
def idefics3() -> TinyFamily:
    return _idefics("idefics3", "Idefics3", ())


@family("smolvlm")
def smolvlm() -> TinyFamily:
    return _idefics("smolvlm", "SmolVLM", ("<video>",))


def _idefics(name: str, prefix: str, more: tuple[str, ...]) -> TinyFamily:
    special = [
        "<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>", *more,
        *places("<row_%d_col_%d>", 6),
    ]  # fmt: skip
    tok = tokenizer(special, "<end_of_utterance>", "<|im_start|>", puts_bos=False)
    config = {
        "vision_config": {k: v for k, v in IDEFICS_TOWER.items() if v != DELETED},
        "text_config": text(tok, model_type="llama"), "scale_factor": 2,
        "image_token_id": number(tok, "<image>"), "pad_token_id": tok.pad_token_id,
    }  # fmt: skip
    images = pictures(
        name, f"{prefix}ImageProcessorPil", size={"longest_edge": 64},
        max_image_size={"longest_edge": 32},
    )  # fmt: skip
    video = (getattr(tf, f"{prefix}VideoProcessor")(),) if more else ()
    processor = getattr(tf, f"{prefix}Processor")(
        images, tok, *video, image_seq_len=4, chat_template=templates.idefics()
    )
    return TinyFamily(name, config, processor)


@family("idefics2")
def idefics2() -> TinyFamily:
    special = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]
    tok = tokenizer(special, "</s>", "<s>")
    config = {
        "vision_config": {k: v for k, v in IDEFICS_TOWER.items() if v != DELETED},
        "text_config": text(tok), "image_token_id": number(tok, "<image>"),
        "perceiver_config": {
            "resampler_n_latents": 4, "resampler_n_heads": 2, "resampler_head_dim": 16,
            "resampler_depth": 1,
        },
    }  # fmt: skip
    images = pictures(
        "idefics2", "Idefics2ImageProcessorPil", size={"shortest_edge": 16, "longest_edge": 32}
    )
    processor = tf.Idefics2Processor(
        images, tok, image_seq_len=4, chat_template=templates.idefics(opening="")
    )
    return TinyFamily("idefics2", config, processor)


@family("mllama")
def mllama() -> TinyFamily:
    special = [*LLAMA3, "<|image|>", "<|python_tag|>", "<|end_of_text|>"]
    tok = tokenizer(special, "<|eot_id|>", "<|begin_of_text|>")
    tower = {
        "image_size": 28, "patch_size": 14, "intermediate_layers_indices": [0],
        "vision_output_dim": 64, "max_num_tiles": 4,
    }  # fmt: skip
    config = {
        "text_config": text(tok, cross_attention_layers=[1], rope_parameters=PLAIN_ROPE),
        "vision_config": tower, "image_token_index": number(tok, "<|image|>"),
    }  # fmt: skip
    images = pictures("mllama", "MllamaImageProcessorPil", size=square(28), max_image_tiles=4)
    processor = tf.MllamaProcessor(images, tok, chat_template=templates.llama3("<|image|>"))
    return TinyFamily("mllama", config, processor)


@family("llama4")
def llama4() -> TinyFamily:
    special = [
        "<|header_start|>", "<|header_end|>", "<|eot|>", "<|image|>", "<|image_start|>",
        "<|image_end|>", "<|patch|>", "<|tile_x_separator|>", "<|tile_y_separator|>",
    ]  # fmt: skip
    tok = tokenizer(special, "<|eot|>", "<|begin_of_text|>")
    texts = {
        "layer_types": DELETED, "moe_layers": DELETED, "no_rope_layers": [1, 1, 1],
        "intermediate_size_mlp": 64, "num_local_experts": 2, "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 1, "rope_parameters": PLAIN_ROPE,
        "attention_chunk_size": 4096,
    }  # fmt: skip
    tower = {
        "image_size": 28, "patch_size": 14, "intermediate_size": 128, "vision_output_dim": 32,
        "projector_input_dim": 32, "projector_output_dim": 32, "pixel_shuffle_ratio": 0.5,
        "hidden_size": 32,
    }  # fmt: skip
    config = {
        "text_config": text(tok, **texts), "vision_config": tower,
        "image_token_index": number(tok, "<|patch|>"),
        "boi_token_index": number(tok, "<|image_start|>"),
        "eoi_token_index": number(tok, "<|image_end|>"),
    }  # fmt: skip
    images = pictures("llama4", "Llama4ImageProcessor", size=square(28), max_patches=4)
    template = templates.llama3("<|image|>", "<|header_start|>", "<|header_end|>", "<|eot|>")
    processor = tf.Llama4Processor(images, tok, patch_size=14, chat_template=template)
    return TinyFamily("llama4", config, processor)


@family("aya_vision")
def aya_vision() -> TinyFamily:
    special = [
        *COHERE, "<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>",
        "<|IMG_LINE_BREAK|>", "TILE", "TILE_GLOBAL",
    ]  # fmt: skip
    tok = tokenizer(special, "<|END_OF_TURN_TOKEN|>", "<BOS_TOKEN>")
    config = {
        "text_config": text(tok, head_dim=16), "vision_config": SIGLIP, "downsample_factor": 2,
        "image_token_index": number(tok, "<|IMG_PATCH|>"),
    }  # fmt: skip
    images = pictures(
        "got_ocr2", "GotOcr2ImageProcessorPil", size=square(32), crop_to_patches=True, max_patches=4
    )
    processor = tf.AyaVisionProcessor(
        images, tok, patch_size=8, img_size=32, downsample_factor=2,
        chat_template=templates.cohere("<image>"),
    )  # fmt: skip
    return TinyFamily("aya_vision", config, processor)


@family("cohere2_vision")
def cohere2_vision() -> TinyFamily:
    named = {
        "boi_token": "<|START_OF_IMG|>", "eoi_token": "<|END_OF_IMG|>",
        "image_token": "<|IMG_PATCH|>", "img_line_break_token": "<|IMG_LINE_BREAK|>",
    }  # fmt: skip
    tok = tokenizer(COHERE, "<|END_OF_TURN_TOKEN|>", "<BOS_TOKEN>", named=named)
    config = {
        "text_config": text(tok, head_dim=16), "vision_config": SIGLIP, "downsample_factor": 2,
        "image_token_id": number(tok, "<|IMG_PATCH|>"), "alignment_intermediate_size": 64,
    }  # fmt: skip
    images = pictures(
        "cohere2_vision", "Cohere2VisionImageProcessor", size=square(32), max_patches=4,
        patch_size=2,
    )  # fmt: skip
    processor = tf.Cohere2VisionProcessor(
        images, tok, chat_template=templates.cohere("<|IMG_PATCH|>")
    )
    return TinyFamily("cohere2_vision", config, processor)


@family("lfm2_vl")
def lfm2_vl() -> TinyFamily:
    named = {
        "image_token": "<image>", "image_start_token": "<|image_start|>",
        "image_end_token": "<|image_end|>", "image_thumbnail_token": "<|img_thumbnail|>",
    }  # fmt: skip
    special = [*CHATML, *places("<|img_row_%d_col_%d|>", 4)]
    tok = tokenizer(special, "<|im_end|>", "<|startoftext|>", named=named)
    config = {
        "text_config": text(
            tok, full_attn_idxs=[1, 2], layer_types=["conv", *["full_attention"] * 2],
            block_multiple_of=16,
        ),
        "vision_config": {"num_patches": 64, "patch_size": 8, "vision_use_head": False},
        "image_token_id": number(tok, "<image>"),
    }  # fmt: skip
    images = pictures(
        "lfm2_vl", "Lfm2VlImageProcessor", tile_size=32, encoder_patch_size=8, min_image_tokens=1,
        max_image_tokens=8, max_tiles=4, size=square(32),
    )  # fmt: skip
    template = templates.chatml("<image>", system=False, opening="{{ bos_token }}")
    return TinyFamily("lfm2_vl", config, tf.Lfm2VlProcessor(images, tok, chat_template=template))


@family("perception_lm")
def perception_lm() -> TinyFamily:
    named = {"image_token": "<|image|>", "video_token": "<|video|>"}
    tok = tokenizer(LLAMA3, "<|eot_id|>", "<|begin_of_text|>", named=named)
    shape = {
        "embed_dim": 32, "img_size": [28, 28], "depth": 2, "num_heads": 2, "mlp_ratio": 2,
        "global_pool": "", "use_post_transformer_norm": False, "init_values": 0.1,
        "ref_feat_shape": [2, 2],
    }  # fmt: skip
    tower = {
        "architecture": "vit_pe_core_large_patch14_336", "num_features": 32, "hidden_size": 32,
        "model_args": shape,
    }  # fmt: skip
    config = {
        "text_config": text(tok), "vision_config": tower, "vision_use_cls_token": True,
        "projector_pooling_ratio": 1, "image_token_id": number(tok, "<|image|>"),
        "video_token_id": number(tok, "<|video|>"),
    }  # fmt: skip
    images = pictures(
        "perception_lm", "PerceptionLMImageProcessor", tile_size=28, max_num_tiles=4,
        size=square(28),
    )  # fmt: skip
    processor = tf.PerceptionLMProcessor(
        tf.PerceptionLMVideoProcessor(), images, tok, patch_size=14, pooling_ratio=1,
        chat_template=templates.llama3("<|image|>"),
    )  # fmt: skip
    return TinyFamily("perception_lm", config, processor)


@family("ovis2")
def ovis2() -> TinyFamily:
    marks = ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
    tok = tokenizer([*CHATML, "<image>", "<IMG_ATOM>", *marks], "<|im_end|>", pad="<|endoftext|>")
    tower = {"image_size": 32, "patch_size": 8, "vocab_size": 64, "hidden_stride": 2}
    config = {
        "text_config": text(tok, model_type="qwen2"), "vision_config": tower,
        "vocab_size": len(tok), "image_token_id": number(tok, "<IMG_ATOM>"),
        "visual_indicator_token_ids": [number(tok, mark) for mark in marks],
    }  # fmt: skip
    images = pictures(
        "ovis2", "Ovis2ImageProcessorPil", size=square(32), crop_to_patches=True, max_patches=4
    )
    processor = tf.Ovis2Processor(
        images, tok, image_seq_length=4, chat_template=templates.chatml("<image>\n")
    )
    return TinyFamily("ovis2", config, processor)


@family("molmo2")
def molmo2() -> TinyFamily:
    special = [
        *CHATML, "<|image|>", "<|video|>", "<im_patch>", "<im_col>", "<im_start>",
        "<low_res_im_start>", "<frame_start>", "<im_end>", "<frame_end>", "<im_low>",
    ]  # fmt: skip
    tok = tokenizer(special, "<|im_end|>", pad="<|endoftext|>")
    config = {
        "text_config": text(tok, head_dim=16, additional_vocab_size=8),
        "vision_config": {
            "image_size": [28, 28], "patch_size": 14, "num_position_embeddings": 4, "head_dim": 16,
        },
        "adapter_config": {
            "vision_feature_layer": [-1, -2], "head_dim": 16, "text_hidden_size": 32,
        },
        "image_start_token_id": number(tok, "<im_start>"),
        "low_res_image_start_token_id": number(tok, "<low_res_im_start>"),
        "image_end_token_id": number(tok, "<im_end>"),
        "image_patch_id": number(tok, "<im_patch>"),
        "frame_start_token_id": number(tok, "<frame_start>"),
        "frame_end_token_id": number(tok, "<frame_end>"),
    }  # fmt: skip
    images = pictures(
        "molmo2", "Molmo2ImageProcessor", size=square(28), max_crops=2, overlap_margins=[0, 0],
        pooling_size=[2, 2], patch_size=14,
    )  # fmt: skip
    processor = tf.Molmo2Processor(
        images, tf.Molmo2VideoProcessor(), tok,
        chat_template=templates.chatml("<|image|>", system=False),
    )  # fmt: skip
    return TinyFamily("molmo2", config, processor)


@family("minicpmv4_6")
def minicpmv4_6() -> TinyFamily:
    named = {
        "image_token": "<|image_pad|>", "video_token": "<|video_pad|>",
        "image_start_token": "<image>", "image_end_token": "</image>",
        "slice_start_token": "<slice>", "slice_end_token": "</slice>",
        "image_id_start_token": "<image_id>", "image_id_end_token": "</image_id>",
    }  # fmt: skip
    tok = tokenizer(CHATML, "<|im_end|>", named=named, pad="<|endoftext|>")
    config = {
        "text_config": text(tok, model_type="qwen3_5_text", **LINEAR),
        "vision_config": {
            "image_size": 112, "patch_size": 14, "insert_layer_id": 0, "num_hidden_layers": 2,
        },
        "insert_layer_id": 0, "image_size": 112, "patch_size": 14,
        "image_token_id": number(tok, "<|image_pad|>"),
        "video_token_id": number(tok, "<|video_pad|>"),
    }  # fmt: skip
    images = pictures(
        "minicpmv4_6", "MiniCPMV4_6ImageProcessorPil", scale_resolution=56, max_slice_nums=2
    )
    processor = tf.MiniCPMV4_6Processor(
        images, tf.MiniCPMV4_6VideoProcessor(), tok,
        chat_template=templates.chatml("<|image_pad|>"),
    )  # fmt: skip
    return TinyFamily("minicpmv4_6", config, processor)


@family("kimi_k25")
def kimi_k25() -> TinyFamily:
    special = [
        "<|media_pad|>", "<|kimi_k25_video_placeholder|>", "<|media_begin|>", "<|media_end|>",
        "<|im_user|>", "<|im_assistant|>", "<|im_middle|>", "<|media_content|>",
    ]  # fmt: skip
    tok = tokenizer(special, "<|im_end|>", "[BOS]", puts_bos=False)
    picture = "<|media_begin|>image<|media_content|><|media_pad|><|media_end|>"
    name = "<|im_{{ m['role'] }}|>{{ m['role'] }}<|im_middle|>"
    asking = "<|im_assistant|>assistant<|im_middle|>"
    message = name + templates.parts(picture) + "<|im_end|>"
    texts = {
        "model_type": "deepseek_v3", "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
        "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "qk_head_dim": 16, "head_dim": 8,
        "n_routed_experts": 4,
    }  # fmt: skip
    config = {
        "text_config": text(tok, **texts), "projection_hidden_size": 32,
        "vision_config": {"pos_emb_height": 4, "pos_emb_width": 4},
        "image_token_id": number(tok, "<|media_pad|>"),
        "video_token_id": number(tok, "<|kimi_k25_video_placeholder|>"),
    }  # fmt: skip
    images = pictures(
        "kimi_k25", "Kimi_K25ImageProcessor", size={"max_height": 56, "max_width": 56},
        max_patches=64,
    )  # fmt: skip
    processor = tf.Kimi_K25Processor(
        images, tok, tf.Kimi_K25VideoProcessor(),
        chat_template=templates.conversation(message, "", asking),
    )  # fmt: skip
    return TinyFamily("kimi_k25", config, processor)
