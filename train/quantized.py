"""The base model of QLoRA: the language model's linears in 4-bit NF4, all else unquantized."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from coincide.models.load import attention_for, check_finite
from coincide.schema import UserError
from train.lora import language_linears

if TYPE_CHECKING:
    import torch


def load_quantized(model_dir: Path, dtype: torch.dtype, device: str) -> Any:
    """The model in ``model_dir`` with NF4 weights on ``device``, in evaluation mode.

    Scales are quantized as well, and arithmetic is in ``dtype`` (Dettmers et al. 2023). Raises
    UserError if bitsandbytes is missing or has no kernels for this machine.
    """
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=unquantized_linears(model_dir),
    )
    model: Any
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            model_dir,
            dtype=dtype,
            quantization_config=quantization,
            device_map={"": device},
            attn_implementation=attention_for(model_dir),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"train.quantization=nf4: {error}\nIt needs the package bitsandbytes with kernels for "
            "this machine: pip install bitsandbytes. train=lora does without."
        ) from error
    return check_finite(model.eval(), model_dir)


def unquantized_linears(model_dir: Path) -> list[str]:
    """Names of the linears that stay unquantized: those outside the language model, and the head.

    Reads only the model's configuration.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        empty = AutoModelForImageTextToText.from_config(config)
    inside = language_linears(empty)
    linears = (n for n, m in empty.named_modules() if isinstance(m, torch.nn.Linear))
    return [name for name in linears if name not in inside]
