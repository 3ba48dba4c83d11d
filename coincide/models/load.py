"""Load a model folder: only safetensors, no code from the folder, no network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from coincide.models.headers import not_finite_text
from coincide.schema import UserError

if TYPE_CHECKING:
    import torch


def load_processor(model_dir: Path) -> Any:
    """The processor (tokenizer and image processor) saved in ``model_dir``.

    Images are resized with PIL, as in LLaVA's own code, not with torchvision, which rounds
    differently. LLaVA's ``image_aspect_ratio pad`` is ``do_pad`` of the saved image processor.
    Raises UserError if there is no processor.
    """
    from transformers import AutoImageProcessor, AutoProcessor

    _check(model_dir, "processor_config.json", "preprocessor_config.json")
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        processor = AutoProcessor.from_pretrained(model_dir, **options)
        processor.image_processor = AutoImageProcessor.from_pretrained(
            model_dir, backend="pil", **options
        )
    except (ImportError, ValueError, OSError) as error:
        raise UserError(
            f"the processor in {model_dir} does not load: {error}\nExpected one that transformers "
            "itself knows, with the packages that it needs."
        ) from error
    if not processor.tokenizer.is_fast:
        raise UserError(
            f"{model_dir} has a slow tokenizer; label masks need the character offsets of a fast "
            "one (tokenizer.json). Convert it with transformers' AutoTokenizer and save it there."
        )
    return processor


def load_model(model_dir: Path, dtype: torch.dtype, device: str | torch.device) -> Any:
    """The image-text-to-text model in ``model_dir``, in evaluation mode on ``device``.

    Raises UserError if there are no safetensors, or if weights are missing or not finite.
    """
    from transformers import AutoModelForImageTextToText

    _check(model_dir, "model.safetensors", "model.safetensors.index.json")
    return pretrained(
        AutoModelForImageTextToText,
        model_dir,
        dtype,
        device,
        what="model folder",
        expected="an image-text-to-text model that transformers itself knows, its files whole; "
        "code that comes with a model is never run",
        attn_implementation=attention_for(model_dir),
        # grouped matrix products of experts take no float64
        **({"experts_implementation": "eager"} if dtype.itemsize == 8 else {}),
    )[0]


def attention_for(model_dir: Path) -> str:
    """PyTorch's fused attention (SDPA), or ``eager`` where the model's class has none."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    try:
        config = AutoConfig.from_pretrained(model_dir, local_files_only=True)
        kind = AutoModelForImageTextToText._model_mapping[type(config)]
    except (ValueError, OSError, KeyError):
        return "sdpa"  # loading the model says what is wrong
    return "sdpa" if getattr(kind, "_supports_sdpa", True) else "eager"


def pretrained(
    kind: Any,
    folder: Path,
    dtype: torch.dtype,
    device: str | torch.device,
    *,
    what: str,
    expected: str,
    may_lack: str | None = None,
    **options: Any,
) -> tuple[Any, bool]:
    """A model of ``kind``, a class of transformers, from the safetensors in ``folder``.

    In evaluation mode on ``device``; also whether it has all its weights. Those whose name starts
    with ``may_lack`` may be missing. Raises UserError, with ``what`` the folder is and what was
    ``expected`` of it, if it does not load, other weights are missing, or some are not finite.
    """
    from safetensors import SafetensorError
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        model, info = kind.from_pretrained(
            folder,
            output_loading_info=True,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            **options,
        )
    except (ValueError, OSError, KeyError, SafetensorError) as error:
        raise UserError(f"{what} {folder} does not load: {error}\nExpected {expected}.") from error
    missing = sorted(info["missing_keys"])
    if lacks := [name for name in missing if not may_lack or not name.startswith(may_lack)]:
        raise UserError(
            f"{what} {folder} lacks weights of its own architecture, {type(model).__name__}: "
            f"{', '.join(lacks[:3])}. It is incomplete, or another kind of model."
        )
    return check_finite(model.to(device).eval(), folder), not missing


def check_finite(model: Any, model_dir: Path) -> Any:
    """``model``; UserError, naming the first three, if weights are NaN or infinite."""
    import torch

    bad = []
    for name, weight in model.named_parameters():
        held = getattr(weight, "ds_tensor", weight)  # ZeRO-3: this rank's part
        if held.is_floating_point() and held.numel() and not held.is_meta:
            bad += [] if bool(torch.isfinite(held).all()) else [name]
    if bad:
        raise UserError(not_finite_text(model_dir, bad))
    return model


def _check(model_dir: Path, *any_of: str) -> None:
    """Raise UserError if the folder contains none of the files ``any_of``."""
    if any((model_dir / name).is_file() for name in any_of):
        return
    found = sorted(p.name for p in model_dir.iterdir()) if model_dir.is_dir() else None
    state = "no such folder" if found is None else f"it holds {', '.join(found) or 'nothing'}"
    raise UserError(
        f"model folder {model_dir}: expected {' or '.join(any_of)}; {state}. "
        "Weights in pickled formats (.bin, .pt) are not loaded: convert them to safetensors."
    )
