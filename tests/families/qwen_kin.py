"""Tiny Qwen-VL, GLM-V and their kin: pictures as flat patches with a grid for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers as tf

from tests.families import templates
from tests.families.parts import (
    BUILDERS,
    MULTIMODAL_ROPE,
    TinyFamily,
    family,
    number,
    pictures,
    qwen_pictures,
    text,
    tokenizer,
)

SPECIAL = [
    "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
]  # fmt: skip
FULL = {"text_config": {"rope_parameters": MULTIMODAL_ROPE}}
DEEPSTACK = {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
EXPERTS = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "decoder_sparse_step": 1, "shared_expert_intermediate_size": 32,
}  # fmt: skip
LINEAR = {
    "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2,
    "linear_num_value_heads": 2, "layer_types": ["linear_attention", *["full_attention"] * 2],
}  # fmt: skip
PART_ROPE = {**MULTIMODAL_ROPE, "mrope_section": [1, 1, 0], "partial_rotary_factor": 0.25}


def qwen(
    name: str,
    processor: str,
    texts: Mapping[str, Any],
    tower: Mapping[str, Any],
    patch: int,
    template: str = "",
) -> TinyFamily:
    tok = tokenizer(SPECIAL, "<|im_end|>", pad="<|endoftext|>")
    config = {
        "text_config": text(tok, **texts), "vision_config": tower,
        "image_token_id": number(tok, "<|image_pad|>"),
        "video_token_id": number(tok, "<|video_pad|>"),
        "vision_start_token_id": number(tok, "<|vision_start|>"),
        "vision_end_token_id": number(tok, "<|vision_end|>"),
    }  # fmt: skip
    video = tf.Qwen3VLVideoProcessor() if "3VL" in processor else tf.Qwen2VLVideoProcessor()
    made = getattr(tf, processor)(
        qwen_pictures(patch), tok, video,
        chat_template=template or templates.chatml(templates.QWEN_PICTURE),
    )  # fmt: skip
    return TinyFamily(name, config, made)


@family("qwen2_vl")
def qwen2_vl() -> TinyFamily:
    tower = {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
    return qwen("qwen2_vl", "Qwen2VLProcessor", {"rope_parameters": MULTIMODAL_ROPE}, tower, 14)


@family("qwen2_5_vl")
def qwen2_5_vl() -> TinyFamily:
    tower = {"window_size": 56, "fullatt_block_indexes": [1]}
    texts = {"rope_parameters": MULTIMODAL_ROPE}
    return qwen("qwen2_5_vl", "Qwen2_5_VLProcessor", texts, tower, 14)


@family("qwen3_vl")
def qwen3_vl() -> TinyFamily:
    texts = {"rope_parameters": MULTIMODAL_ROPE}
    return qwen("qwen3_vl", "Qwen3VLProcessor", texts, DEEPSTACK, 16)


@family("qwen3_vl_thinking")
def qwen3_vl_thinking() -> TinyFamily:
    texts = {"rope_parameters": MULTIMODAL_ROPE}
    template = templates.thinking(templates.QWEN_PICTURE)
    return qwen("qwen3_vl", "Qwen3VLProcessor", texts, DEEPSTACK, 16, template)


@family("qwen3_vl_moe")
def qwen3_vl_moe() -> TinyFamily:
    texts = {"rope_parameters": MULTIMODAL_ROPE, **EXPERTS}
    return qwen("qwen3_vl_moe", "Qwen3VLProcessor", texts, DEEPSTACK, 16)


@family("qwen3_5")
def qwen3_5() -> TinyFamily:
    texts, tower = {"rope_parameters": PART_ROPE, **LINEAR}, {"num_position_embeddings": 64}
    return qwen("qwen3_5", "Qwen3VLProcessor", texts, tower, 16)


@family("qwen3_5_moe")
def qwen3_5_moe() -> TinyFamily:
    texts = {"rope_parameters": PART_ROPE, **LINEAR, **EXPERTS}
    return qwen("qwen3_5_moe", "Qwen3VLProcessor", texts, {"num_position_embeddings": 64}, 16)


@family("exaone4_5")
def exaone4_5() -> TinyFamily:
    tok = tokenizer([*SPECIAL, "[|user|]", "[|assistant|]"], "[|endofturn|]", pad="[PAD]")
    content = templates.parts(templates.QWEN_PICTURE + "\n")
    message = "[|{{ m['role'] }}|]\n" + content + "[|endofturn|]\n"
    config = {
        "text_config": text(tok, sliding_window_pattern=2),
        "vision_config": {"window_size": 56, "fullatt_block_indexes": [1]},
        "image_token_id": number(tok, "<|image_pad|>"),
        "video_token_id": number(tok, "<|video_pad|>"),
    }  # fmt: skip
    processor = tf.Exaone4_5_Processor(
        qwen_pictures(), tok, tf.Qwen2VLVideoProcessor(),
        chat_template=templates.conversation(message, "", "[|assistant|]\n"),
    )  # fmt: skip
    return TinyFamily("exaone4_5", config, processor)


@family("lfm3_vl")
def lfm3_vl() -> TinyFamily:
    tok = tokenizer(SPECIAL, "<|im_end|>", "<|startoftext|>", pad="<|pad|>", puts_bos=False)
    config = {
        "text_config": text(tok, layer_types=["conv", *["full_attention"] * 2], sliding_window=64),
        "vision_config": {},
        "image_token_id": number(tok, "<|image_pad|>"),
        "video_token_id": number(tok, "<|video_pad|>"),
        "vision_start_token_id": number(tok, "<|vision_start|>"),
        "vision_end_token_id": number(tok, "<|vision_end|>"),
    }  # fmt: skip
    template = templates.chatml(templates.QWEN_PICTURE, system=False, opening="{{ bos_token }}")
    processor = tf.Lfm3VlProcessor(
        qwen_pictures(16), tok, tf.Qwen3VLVideoProcessor(), chat_template=template
    )
    return TinyFamily("lfm3_vl", config, processor)


@family("video_llama_3")
def video_llama_3() -> TinyFamily:
    tok = tokenizer(SPECIAL, "<|im_end|>", pad="<|endoftext|>")
    config = {
        "text_config": text(tok), "vision_config": {"patch_size": 14},
        "image_token_id": number(tok, "<|image_pad|>"),
        "video_token_id": number(tok, "<|video_pad|>"),
    }  # fmt: skip
    images = pictures(
        "video_llama_3", "VideoLlama3ImageProcessorPil",
        size={"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 9},
    )  # fmt: skip
    processor = tf.VideoLlama3Processor(
        images, tok, tf.VideoLlama3VideoProcessor(),
        chat_template=templates.chatml("<|image_pad|>\n"),
    )  # fmt: skip
    return TinyFamily("video_llama_3", config, processor)


@family("paddleocr_vl")
def paddleocr_vl() -> TinyFamily:
    named = {"image_token": "<|image_pad|>"}
    tok = tokenizer([*SPECIAL, "<|begin_of_sentence|>"], "</s>", "<s>", named=named, puts_bos=False)
    config = {
        "text_config": text(tok, rope_parameters=MULTIMODAL_ROPE),
        "vision_config": {"image_size": 56},
        "image_token_id": number(tok, "<|image_pad|>"),
        "video_token_id": number(tok, "<|video_pad|>"),
        "vision_start_token_id": number(tok, "<|vision_start|>"),
        "vision_end_token_id": number(tok, "<|vision_end|>"),
    }  # fmt: skip
    images = pictures(
        "paddleocr_vl", "PaddleOCRVLImageProcessorPil",
        size={"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 9},
    )  # fmt: skip
    asked = "User: " + templates.parts(templates.QWEN_PICTURE) + "\n"
    said = "Assistant: {% for c in m['content'] %}{{ c['text'] }}{% endfor %}{{ eos_token }}"
    template = templates.conversation(
        templates.role(asked, said), "<|begin_of_sentence|>", "Assistant: "
    )
    processor = tf.PaddleOCRVLProcessor(images, tok, chat_template=template)
    return TinyFamily("paddleocr_vl", config, processor)


@family("cohere_compass")
def cohere_compass() -> TinyFamily:
    """``logit_scale`` multiplies the logits, as in the published one."""
    special = [
        *COHERE, "<|IMAGE_PAD|>", "<|VIDEO_PAD|>", "<|VISION_START|>", "<|VISION_END|>",
    ]  # fmt: skip
    tok = tokenizer(special, "<|END_OF_TURN_TOKEN|>", "<BOS_TOKEN>")
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    texts = {
        "head_dim": 16, "logit_scale": 0.25, "layer_types": ["full_attention"] * 3,
        "rope_parameters": {"full_attention": rope, "sliding_attention": rope},
    }  # fmt: skip
    config = {
        "text_config": text(tok, **texts), "vision_config": DEEPSTACK,
        "image_token_id": number(tok, "<|IMAGE_PAD|>"),
        "video_token_id": number(tok, "<|VIDEO_PAD|>"),
    }  # fmt: skip
    images = pictures(
        "cohere_compass", "CohereCompassImageProcessorPil", patch_size=16,
        size={"shortest_edge": 32 * 32, "longest_edge": 32 * 32 * 9},
    )  # fmt: skip
    processor = tf.CohereCompassProcessor(
        images, tok, tf.CohereCompassVideoProcessor(),
        chat_template=templates.cohere("<|VISION_START|><|IMAGE_PAD|><|VISION_END|>"),
    )  # fmt: skip
    return TinyFamily("cohere_compass", config, processor)


COHERE = [
    "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>",
    "<|START_RESPONSE|>", "<|END_RESPONSE|>",
]  # fmt: skip
GLM = [
    "[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|begin_of_image|>", "<|end_of_image|>",
    "<|image|>", "<|begin_of_video|>", "<|end_of_video|>", "<|video|>",
]  # fmt: skip


def glm(name: str, processor: str, module: str, texts: Mapping[str, Any]) -> TinyFamily:
    tok = tokenizer(GLM, "<|endoftext|>", pad="<|endoftext|>")
    rope = {**MULTIMODAL_ROPE, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2]}
    ends = [tok.eos_token_id, number(tok, "<|user|>")]
    config = {
        "text_config": {**text(tok), "eos_token_id": ends, "rope_parameters": rope, **texts},
        "vision_config": {"image_size": 56},
        "image_token_id": number(tok, "<|image|>"), "video_token_id": number(tok, "<|video|>"),
        "image_start_token_id": number(tok, "<|begin_of_image|>"),
        "image_end_token_id": number(tok, "<|end_of_image|>"),
        "video_start_token_id": number(tok, "<|begin_of_video|>"),
        "video_end_token_id": number(tok, "<|end_of_video|>"),
    }  # fmt: skip
    prefix = "Glm46V" if module == "glm46v" else "Glm4v"
    images = pictures(
        module, f"{prefix}ImageProcessorPil",
        size={"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 18},
    )  # fmt: skip
    made = getattr(tf, processor)(
        images, tok, getattr(tf, f"{prefix}VideoProcessor")(),
        chat_template=templates.glm("<|begin_of_image|><|image|><|end_of_image|>"),
    )  # fmt: skip
    return TinyFamily(name, config, made)


GLM_EXPERTS = {
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "moe_intermediate_size": 32,
}  # fmt: skip
BUILDERS["glm4v"] = lambda: glm("glm4v", "Glm4vProcessor", "glm4v", {})
BUILDERS["glm4v_moe"] = lambda: glm("glm4v_moe", "Glm4vProcessor", "glm4v", GLM_EXPERTS)
BUILDERS["glm46v"] = lambda: glm("glm46v", "Glm46VProcessor", "glm46v", {})
BUILDERS["glm_ocr"] = lambda: glm("glm_ocr", "Glm46VProcessor", "glm46v", {})
