"""Settings files and start commands for other trainers, written beside an exported file.

The versions are those with which ``scripts/clients.sh`` checks the formats; see docs/CLIENTS.md.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from coincide.schema import UserError
from coincide.system.files import write_json, write_text

VERSIONS = {
    "llamafactory": "llamafactory==0.9.5",
    "swift": "ms-swift==4.6.0",
    "trl": "trl==1.16.0",
    "axolotl": "axolotl==0.19.0",
}
MODEL = "llava-hf/llava-1.5-7b-hf"
"""The model named in the settings; to be replaced by one's own."""
UNKNOWN_ROOT = "IMAGE_ROOT"
"""Stands for the image folder if it is not known."""


@dataclass(frozen=True)
class Exported:
    """An exported file: ``out``, and the folder that its picture paths are relative to."""

    out: Path
    root: str
    """Absolute; ``UNKNOWN_ROOT`` if not known."""
    media: bool = False
    """Whether a text contains ``<video>`` or ``<audio>`` as plain words."""

    @property
    def folder(self) -> Path:
        return self.out.absolute().parent

    def beside(self, suffix: str) -> Path:
        """A file beside the data."""
        return self.folder / f"{self.out.stem}.{suffix}"


def write_beside(form: str, exported: Exported) -> tuple[list[Path], list[str]]:
    """Write the files that the trainer ``form`` needs; returns them and the lines that start it.

    The last file contains these lines. Empty for formats of no particular trainer.
    """
    if form not in TRAINERS:
        return [], []
    files, lines = TRAINERS[form](exported)
    script = exported.beside(f"{form}.sh")
    write_text(script, "\n".join(lines) + "\n")
    return [*files, script], lines


def _llamafactory(exported: Exported) -> tuple[list[Path], list[str]]:
    info = exported.folder / "dataset_info.json"
    name = exported.out.stem
    entry = {
        "file_name": exported.out.name,
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "images": "images"},
    }
    write_json(info, {**_known(info), name: entry})
    settings = exported.beside("llamafactory.yaml")
    fields = {
        "model_name_or_path": MODEL, "template": "llava", "stage": "sft", "do_train": True,
        "finetuning_type": "lora", "dataset": name, "dataset_dir": str(exported.folder),
        "media_dir": exported.root, "cutoff_len": 2048, "per_device_train_batch_size": 4,
        "learning_rate": 2.0e-4, "num_train_epochs": 1,
        "output_dir": str(exported.beside("output")),
    }  # fmt: skip
    write_text(settings, _yaml(fields))
    renamed = "export VIDEO_PLACEHOLDER='<no video>' AUDIO_PLACEHOLDER='<no audio>'"
    return [info, settings], [
        _install("llamafactory"),
        renamed if exported.media else f"cd {_quoted(exported.folder)}",
        f"llamafactory-cli train {_quoted(settings)}",
    ]


def _known(info: Path) -> dict[str, object]:
    """The entries of an existing ``dataset_info.json``, which are kept."""
    if not info.exists():
        return {}
    try:
        found = json.loads(info.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{info}: expected a JSON object of datasets, got {error}.") from None
    if not isinstance(found, dict):
        raise UserError(f"{info}: expected a JSON object of datasets, got another list or value.")
    return found


def _swift(exported: Exported) -> tuple[list[Path], list[str]]:
    return [], [
        _install("swift"),
        f"export ROOT_IMAGE_DIR={shlex.quote(exported.root)}",
        f"swift sft --model {MODEL} --dataset {_quoted(exported.out.absolute())} "
        f"--tuner_type lora --max_length 2048 --output_dir {_quoted(exported.beside('output'))}",
    ]


_TRL = """# SFT with TRL, started in the folder that the pictures' paths start from.
#
# Loss is on answers alone where the model's chat template has generation marks, else on every
# token but padding.

import sys

import torch
from datasets import load_dataset
from transformers import AutoProcessor
from trl import SFTConfig, SFTTrainer

model = sys.argv[1] if len(sys.argv) > 1 else "{model}"
marked = "generation %}}" in str(AutoProcessor.from_pretrained(model).chat_template)
data = load_dataset("json", data_files={path!r}, split="train")
settings = SFTConfig(
    output_dir={output!r}, max_length=None, assistant_only_loss=marked,
    bf16=torch.cuda.is_available(),
)
SFTTrainer(model, args=settings, train_dataset=data).train()
"""


def _trl(exported: Exported) -> tuple[list[Path], list[str]]:
    script = exported.beside("trl.py")
    text = _TRL.format(
        model=MODEL,
        path=str(exported.out.absolute()),
        output=str(exported.beside("output")),
    )
    write_text(script, text)
    return [script], [_install("trl"), _there(exported), f"python {_quoted(script)} {MODEL}"]


def _axolotl(exported: Exported) -> tuple[list[Path], list[str]]:
    settings = exported.beside("axolotl.yaml")
    fields = {
        "base_model": MODEL, "processor_type": "AutoProcessor", "chat_template": "llava",
        "datasets": [{"path": str(exported.out.absolute()), "ds_type": "json",
                      "type": "chat_template", "field_messages": "messages"}],
        "skip_prepare_dataset": True, "remove_unused_columns": False, "sample_packing": False,
        "adapter": "lora", "lora_r": 128, "lora_alpha": 256, "lora_target_linear": True,
        "sequence_len": 2048, "micro_batch_size": 4, "gradient_accumulation_steps": 1,
        "num_epochs": 1, "optimizer": "adamw_torch", "learning_rate": 2.0e-4,
        "output_dir": str(exported.beside("output")),
        "lora_qkv_kernel": False, "lora_o_kernel": False, "lora_mlp_kernel": False,
    }  # fmt: skip
    write_text(settings, _AXOLOTL + _yaml(fields))
    return [settings], [
        _install("axolotl"),
        _there(exported),
        f"axolotl train {_quoted(settings)}",
    ]


_AXOLOTL = """# Loss is on questions too: axolotl does not know where LLaVA's template puts answers,
# and role_boundaries, which would say so, stops axolotl 0.19.0 with a TypeError.
# Its lora kernels, which it switches on by itself, do not know LLaVA either.
"""


TRAINERS: Mapping[str, Callable[[Exported], tuple[list[Path], list[str]]]] = {
    "llamafactory": _llamafactory,
    "swift": _swift,
    "trl": _trl,
    "axolotl": _axolotl,
}


def _install(trainer: str) -> str:
    return f"pip install {VERSIONS[trainer]}"


def _there(exported: Exported) -> str:
    """The working directory for training: picture paths are relative to it."""
    return f"cd {shlex.quote(exported.root)}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _yaml(fields: Mapping[str, object]) -> str:
    """YAML of flat fields; values are JSON, which is YAML."""
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in fields.items())
