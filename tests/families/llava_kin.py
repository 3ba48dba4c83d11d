"""Tiny LLaVA and its kin: a vision tower, a projector, a decoder; one block a picture."""

from __future__ import annotations

import transformers as tf

from tests.families import templates
from tests.families.parts import (
    CLIP,
    GRID,
    SIGLIP,
    TinyFamily,
    clip_pictures,
    family,
    number,
    pictures,
    qwen_pictures,
    square,
    text,
    tokenizer,
)

CHATML = ["<|im_start|>", "<|im_end|>"]
MISTRAL = ["[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]
CLIP_COUNTS = {
    "patch_size": 16, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1,
}  # fmt: skip


@family("llava")
def llava() -> TinyFamily:
    tok = tokenizer(["<image>"], "</s>", "<s>")
    config = {
        "text_config": text(tok), "vision_config": CLIP, "image_seq_length": 4,
        "image_token_index": number(tok, "<image>"),
    }  # fmt: skip
    processor = tf.LlavaProcessor(
        clip_pictures(), tok, **CLIP_COUNTS, chat_template=templates.llava("<image>")
    )
    return TinyFamily("llava", config, processor)


@family("vipllava")
def vipllava() -> TinyFamily:
    made = llava()
    tower = {**CLIP, "num_hidden_layers": 3}
    config = {**made.config, "vision_config": tower, "vision_feature_layers": [-1, -2]}
    made.processor.chat_template = templates.llava("<image>", "Human")
    return TinyFamily("vipllava", config, made.processor)


@family("pixtral")
def pixtral() -> TinyFamily:
    tok = tokenizer(MISTRAL, "</s>", "<s>")
    tower = {**SIGLIP, "model_type": "pixtral", "image_size": 64, "head_dim": 16}
    config = {
        "text_config": text(tok, model_type="mistral", head_dim=16), "vision_config": tower,
        "image_token_index": number(tok, "[IMG]"), "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    }  # fmt: skip
    images = pictures(
        "pixtral", "PixtralImageProcessorPil", size={"longest_edge": 32}, patch_size=square(8)
    )
    processor = tf.PixtralProcessor(
        images, tok, patch_size=8, chat_template=templates.mistral("[IMG]")
    )
    return TinyFamily("llava", config, processor)


@family("mistral3")
def mistral3() -> TinyFamily:
    tok = tokenizer(MISTRAL, "</s>", "<s>")
    config = {
        "text_config": text(tok, head_dim=16), "spatial_merge_size": 2,
        "vision_config": {"image_size": 64, "patch_size": 8, "head_dim": 16},
        "image_token_index": number(tok, "[IMG]"),
    }  # fmt: skip
    images = pictures(
        "pixtral", "PixtralImageProcessorPil", size={"longest_edge": 64}, patch_size=square(8)
    )
    processor = tf.PixtralProcessor(
        images, tok, patch_size=8, spatial_merge_size=2, chat_template=templates.mistral("[IMG]")
    )
    return TinyFamily("mistral3", config, processor)


@family("lighton_ocr")
def lighton_ocr() -> TinyFamily:
    named = {
        "image_token": "<|image_pad|>", "image_break_token": "<|vision_pad|>",
        "image_end_token": "<|vision_end|>",
    }  # fmt: skip
    tok = tokenizer(CHATML, "<|im_end|>", named=named, pad="<|endoftext|>")
    config = {
        "text_config": text(tok), "spatial_merge_size": 2,
        "vision_config": {"image_size": 64, "patch_size": 8, "head_dim": 16},
        "image_token_id": number(tok, "<|image_pad|>"),
    }  # fmt: skip
    images = pictures(
        "pixtral", "PixtralImageProcessorPil", size={"longest_edge": 64}, patch_size=square(16)
    )
    processor = tf.LightOnOcrProcessor(
        images, tok, patch_size=8, spatial_merge_size=2,
        chat_template=templates.chatml("<|image_pad|>"),
    )  # fmt: skip
    return TinyFamily("lighton_ocr", config, processor)


@family("llava_next")
def llava_next() -> TinyFamily:
    tok = tokenizer(["<image>", "[INST]", "[/INST]"], "</s>", "<s>")
    config = {
        "text_config": text(tok, model_type="mistral", head_dim=16), "vision_config": CLIP,
        "image_token_index": number(tok, "<image>"), "image_grid_pinpoints": GRID,
    }  # fmt: skip
    processor = tf.LlavaNextProcessor(
        next_pictures(), tok, **CLIP_COUNTS, chat_template=templates.llava_next("<image>")
    )
    return TinyFamily("llava_next", config, processor)


def next_pictures() -> object:
    return pictures(
        "llava_next", "LlavaNextImageProcessorPil", size={"shortest_edge": 32},
        crop_size=square(32), image_grid_pinpoints=GRID,
    )  # fmt: skip


@family("llava_next_video")
def llava_next_video() -> TinyFamily:
    tok = tokenizer(["<image>", "<video>"], "</s>", "<s>")
    config = {
        "text_config": text(tok), "vision_config": CLIP, "image_grid_pinpoints": GRID,
        "image_token_index": number(tok, "<image>"), "video_token_index": number(tok, "<video>"),
    }  # fmt: skip
    processor = tf.LlavaNextVideoProcessor(
        tf.LlavaNextVideoVideoProcessor(), next_pictures(), tok, **CLIP_COUNTS,
        chat_template=templates.llava("<image>"),
    )  # fmt: skip
    return TinyFamily("llava_next_video", config, processor)


@family("llava_onevision")
def llava_onevision() -> TinyFamily:
    tok = tokenizer([*CHATML, "<image>", "<video>"], "<|im_end|>")
    config = {
        "text_config": text(tok, model_type="qwen2"), "vision_config": {**SIGLIP, "patch_size": 16},
        "image_token_index": number(tok, "<image>"), "video_token_index": number(tok, "<video>"),
        "image_grid_pinpoints": GRID, "vision_aspect_ratio": "anyres_max_9",
    }  # fmt: skip
    images = pictures(
        "llava_onevision", "LlavaOnevisionImageProcessorPil", size=square(32),
        image_grid_pinpoints=GRID,
    )  # fmt: skip
    processor = tf.LlavaOnevisionProcessor(
        images, tok, tf.LlavaOnevisionVideoProcessor(size=square(32)), num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=templates.chatml("<image>\n", system=False),
    )  # fmt: skip
    return TinyFamily("llava_onevision", config, processor)


@family("granite4_vision")
def granite4_vision() -> TinyFamily:
    """``logits_scaling`` divides the logits, as in the published one."""
    roles = ["<|start_of_role|>", "<|end_of_role|>"]
    tok = tokenizer([*roles, "<|end_of_text|>", "<image>"], "<|end_of_text|>")
    asking = "<|start_of_role|>assistant<|end_of_role|>"
    message = "<|start_of_role|>{{ m['role'] }}<|end_of_role|>" + templates.parts("<image>\n")
    template = templates.conversation(message + "<|end_of_text|>\n", "", asking)
    config = {
        "text_config": text(tok, logits_scaling=8.0, hidden_size=64),
        "vision_config": {**SIGLIP, "hidden_size": 64}, "image_grid_pinpoints": GRID,
        "image_token_index": number(tok, "<image>"), "downsample_rate": "2/4",
        "vision_feature_select_strategy": "full", "deepstack_layer_map": [[-1, 0]],
        "spatial_vision_layer": -1, "spatial_target_layers": [1],
        "qformer_config": {"hidden_size": 64, "encoder_hidden_size": 64, "num_hidden_layers": 1},
    }  # fmt: skip
    images = pictures(
        "llava_next", "LlavaNextImageProcessorPil", size=square(32), crop_size=square(32),
        image_grid_pinpoints=GRID,
    )  # fmt: skip
    processor = tf.Granite4VisionProcessor(
        images, tok, patch_size=8, vision_feature_select_strategy="full", downsample_rate="2/4",
        chat_template=template,
    )  # fmt: skip
    return TinyFamily("granite4_vision", config, processor)


@family("video_llava")
def video_llava() -> TinyFamily:
    tok = tokenizer(["<image>", "<video>"], "</s>", "<s>")
    config = {
        "text_config": text(tok), "vision_config": CLIP, "image_seq_length": 4,
        "image_token_index": number(tok, "<image>"), "video_token_index": number(tok, "<video>"),
    }  # fmt: skip
    images = pictures(
        "video_llava", "VideoLlavaImageProcessor", size={"shortest_edge": 32}, crop_size=square(32)
    )
    processor = tf.VideoLlavaProcessor(
        images, tf.VideoLlavaVideoProcessor(), tok, patch_size=16,
        chat_template=templates.llava("<image>"),
    )  # fmt: skip
    return TinyFamily("video_llava", config, processor)


@family("fast_vlm")
def fast_vlm() -> TinyFamily:
    tok = tokenizer([*CHATML, "<image>"], "<|im_end|>", pad="<|endoftext|>")
    stages = {
        "inference_mode": True, "layers": [1] * 5, "embed_dims": [8, 8, 16, 16, 32],
        "mlp_ratios": [1] * 5, "se_downsamples": [False] * 5, "pos_embs": [None] * 5,
        "downsamples": [False, True, True, True, True], "token_mixers": ["repmixer"] * 5,
        "lkc_use_act": True, "stem_use_scale_branch": False,
    }  # fmt: skip
    tower = {
        "architecture": "fastvit_mci3", "do_pooling": True, "global_pool": "avg", "hidden_size": 64,
        "model_args": stages,
    }  # fmt: skip
    config = {
        "text_config": text(tok), "vision_config": tower, "image_seq_length": 1,
        "image_token_index": number(tok, "<image>"),
    }  # fmt: skip
    counts = {**CLIP_COUNTS, "patch_size": 64}
    processor = tf.LlavaProcessor(
        clip_pictures(64), tok, **counts, chat_template=templates.chatml("<image>\n")
    )
    return TinyFamily("fast_vlm", config, processor)


@family("deepseek_vl")
def deepseek_vl() -> TinyFamily:
    tok = tokenizer([], "<eos>", "<bos>", named={"image_token": "<image_placeholder>"})
    config = {
        "text_config": text(tok), "vision_config": SIGLIP,
        "image_token_id": number(tok, "<image_placeholder>"),
    }  # fmt: skip
    images = pictures("deepseek_vl", "DeepseekVLImageProcessorPil", size=square(32))
    processor = tf.DeepseekVLProcessor(
        images, tok, num_image_tokens=16, chat_template=templates.deepseek("<image_placeholder>")
    )
    return TinyFamily("deepseek_vl", config, processor)


@family("deepseek_vl_hybrid")
def deepseek_vl_hybrid() -> TinyFamily:
    made = deepseek_vl()
    tower = {
        "image_size": 128, "output_channels": 16, "global_attn_indexes": [1], "num_pos_feats": 8,
        "window_size": 4,
    }  # fmt: skip
    images = pictures(
        "deepseek_vl_hybrid", "DeepseekVLHybridImageProcessorPil", size=square(32),
        high_res_size=square(128),
    )  # fmt: skip
    processor = tf.DeepseekVLHybridProcessor(
        images, made.processor.tokenizer, num_image_tokens=16,
        chat_template=templates.deepseek("<image_placeholder>"),
    )  # fmt: skip
    config = {**made.config, "high_res_vision_config": tower}
    return TinyFamily("deepseek_vl_hybrid", config, processor)


@family("janus")
def janus() -> TinyFamily:
    named = {
        "image_token": "<image_placeholder>", "boi_token": "<begin_of_image>",
        "eoi_token": "<end_of_image>",
    }  # fmt: skip
    tok = tokenizer([], "<eos>", "<bos>", named=named)
    codes = {
        "base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1,
        "latent_channels": 16, "num_embeddings": 64, "num_patches": 4, "image_token_embed_dim": 32,
        "num_hidden_layers": 2,
    }  # fmt: skip
    config = {
        "text_config": text(tok), "vq_config": codes,
        "vision_config": {"image_size": 32, "patch_size": 8, "num_image_tokens": 16},
        "image_token_id": number(tok, "<image_placeholder>"),
    }  # fmt: skip
    images = pictures("janus", "JanusImageProcessorPil", size=square(32))
    processor = tf.JanusProcessor(
        images, tok, num_image_tokens=16, chat_template=templates.deepseek("<image_placeholder>\n")
    )
    return TinyFamily("janus", config, processor)


@family("aria")
def aria() -> TinyFamily:
    tok = tokenizer(CHATML, "<|im_end|>", named={"image_token": "<|img|>"})
    config = {
        "text_config": text(tok), "vision_config": {"image_size": 980, "patch_size": 70},
        "projector_patch_to_query_dict": {49: 4, 196: 6},
        "image_token_index": number(tok, "<|img|>"),
    }  # fmt: skip
    images = pictures("aria", "AriaImageProcessorPil", max_image_size=490)
    template = templates.chatml("<fim_prefix><|img|><fim_suffix>", system=False)
    processor = tf.AriaProcessor(
        images, tok, size_conversion={490: 4, 980: 6}, chat_template=template
    )
    return TinyFamily("aria", config, processor)


@family("hyperclovax_vision_v2")
def hyperclovax_vision_v2() -> TinyFamily:
    special = [*CHATML, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tok = tokenizer(special, "<|im_end|>", pad="<|endoftext|>")
    config = {
        "text_config": text(tok),
        "vision_config": {"window_size": 56, "fullatt_block_indexes": [1]},
        "image_token_id": number(tok, "<|image_pad|>"),
        "video_token_id": number(tok, "<|video_pad|>"),
    }  # fmt: skip
    processor = tf.HyperCLOVAXVisionV2Processor(
        qwen_pictures(), tok, tf.Qwen2VLVideoProcessor(),
        chat_template=templates.chatml(templates.QWEN_PICTURE),
    )  # fmt: skip
    return TinyFamily("hyperclovax_vision_v2", config, processor)
