"""Check a model folder by the headers of its files: are they complete, and do the parts fit
together.

Only the first bytes of weight files are read, so a check takes as long for seven billion parameters
as for a million. Layout of safetensors: eight bytes with the length of a JSON header, the header
(tensor -> dtype, shape, offsets), then the tensors without gaps.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from coincide.models.refused import INSTEAD, why_refused
from coincide.models.template import TEMPLATES

POINTER = b"version https://git-lfs.github.com/spec"
MOST_HEADER = 100 * 2**20
"""Largest header in bytes, safetensors' own limit."""
EMBEDDINGS = re.compile(r"(^|\.)(embed_tokens|wte|tok_embeddings|word_embeddings)\.weight$")
TOKENS = re.compile(r"<\|[A-Za-z_]+\|>")
OURS = ("llava", "None")
"""Kinds of models that a template of this project serves; no config.json tells nothing."""
Shapes = dict[str, tuple[int, ...]]
EXPONENTS: dict[str, tuple[np.dtype[Any], int]] = {
    "BF16": (np.dtype("<u2"), 0x7F80),
    "F16": (np.dtype("<u2"), 0x7C00),
    "F32": (np.dtype("<u4"), 0x7F800000),
    "F64": (np.dtype("<u8"), 0x7FF0000000000000),
}
"""Type of a tensor -> its numbers as integers, and the bits of their exponent."""
CHUNK = 1 << 24
"""Numbers that are looked at together."""


def broken_files(files: Iterable[Path]) -> list[str]:
    """The incomplete files of a model, each with the reason."""
    found = ((file, _fault(file)) for file in files)
    return [f"{file.name} {fault}" for file, fault in found if fault]


def _fault(file: Path) -> str:
    size = file.stat().st_size
    with file.open("rb") as handle:
        head = handle.read(len(POINTER))
    if head == POINTER:
        return "is a Git LFS pointer, not the file itself (git lfs pull, or hf download)"
    if not size:
        return "is empty"
    if file.suffix == ".safetensors":
        return _cut(file, size)
    if file.suffix == ".json":
        try:
            json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            return f"is no JSON ({error})"
    return ""


def _cut(file: Path, size: int) -> str:
    header = read_header(file)
    if header is None:
        return f"has no whole safetensors header ({size:,} bytes): cut short, or another format"
    length, tensors = header
    wanted = 8 + length + max((t["data_offsets"][1] for t in tensors.values()), default=0)
    if wanted != size:
        return f"has {size:,} bytes, its header says {wanted:,}: a download that broke off"
    return ""


def read_header(file: Path) -> tuple[int, dict[str, Any]] | None:
    """Length and tensors of a safetensors file; None if its header is incomplete."""
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if not 2 <= length <= min(MOST_HEADER, file.stat().st_size):
            return None
        text = handle.read(length)
    with suppress(ValueError, TypeError, KeyError):
        tensors = {k: v for k, v in json.loads(text).items() if k != "__metadata__"}
        if all(t["data_offsets"][1] >= 0 and t["shape"] is not None for t in tensors.values()):
            return length, tensors
    return None


def not_finite(file: Path) -> list[str]:
    """The tensors of a safetensors file that hold NaN or infinite values, found by their bits.

    Reads the whole file: every number whose exponent is all ones is none. Types of less than two
    bytes are left out.
    """
    length, tensors = read_header(file) or (0, {})
    found = []
    for name, tensor in tensors.items():
        begin, end = tensor["data_offsets"]
        if tensor["dtype"] in EXPONENTS and end > begin:
            kind, mask = EXPONENTS[tensor["dtype"]]
            bits = np.memmap(file, kind, "r", 8 + length + begin, (end - begin) // kind.itemsize)
            chunks = (bits[at : at + CHUNK] for at in range(0, len(bits), CHUNK))
            if any(bool(((chunk & mask) == mask).any()) for chunk in chunks):
                found.append(name)
    return found


def not_finite_text(checkpoint: str | Path, tensors: Sequence[str]) -> str:
    """What to say of a checkpoint with such ``tensors``: the first three are named."""
    return (
        f"the checkpoint {checkpoint} holds NaN or infinite values in {len(tensors):,} of its "
        f"weights ({', '.join(tensors[:3])}): it is damaged, or diverged when it was trained. Take "
        "a sound one; no setting of this run mends it."
    )


def shapes(files: Iterable[Path]) -> Shapes:
    """Tensor -> shape, for the safetensors files among ``files``."""
    headers = [read_header(file) for file in files if file.suffix == ".safetensors"]
    return {
        name: tuple(tensor["shape"])
        for header in headers
        if header is not None
        for name, tensor in header[1].items()
    }


def unusable_reason(folder: Path, files: Sequence[Path], template: str) -> list[str]:
    """Why the model in ``folder`` cannot be used with ``template``.

    Found are a vocabulary that does not fit the embedding, missing tokens, and a missing chat
    template. Empty if nothing is wrong, or if there is no ``tokenizer.json`` to check.
    """
    tokens = vocabulary(folder)
    faults = _template_faults(folder, template, tokens)
    if not tokens:
        return faults
    rows = [shape[0] for name, shape in shapes(files).items() if EMBEDDINGS.search(name) and shape]
    largest = max(tokens.values()) + 1
    if rows and largest > max(rows):
        over = [token for token, number in tokens.items() if number >= max(rows)]
        faults.append(
            f"its tokenizer has {largest:,} tokens, its embedding {max(rows):,} rows: "
            f"{', '.join(map(ascii, over[:3]))} would be out of range. Take tokenizer and weights "
            "of one model, or resize the embedding (resize_token_embeddings) and save it"
        )
    image = _image_token(folder)
    if image is not None and image not in tokens.values():
        faults.append(
            f"config.json puts images at token {image}, which its tokenizer does not have: the "
            "image token was not added, or the tokenizer is of another model"
        )
    return faults


def _template_faults(folder: Path, template: str, tokens: dict[str, int]) -> list[str]:
    kind = str(_config(folder / "config.json").get("model_type"))
    if why := why_refused(kind):
        return [f"models of kind {kind} cannot be used: {why}. {INSTEAD}"]
    if template != "chat" and kind not in OURS:
        return [
            f"template {template} serves models of kind llava alone, not {kind}. Set template=chat"
        ]
    if template != "chat":
        end = TEMPLATES[template].end if template in TEMPLATES else ""
        if tokens and end and end not in tokens:
            return [f"template {template} ends answers with {end!r}, no token of its tokenizer"]
        return []
    text = chat_template(folder)
    if not text:
        return [f"it brings no chat template (chat_template.jinja). {_instead(folder, tokens)}"]
    lacking = sorted(set(TOKENS.findall(text)) - tokens.keys()) if tokens else []
    turns = [token for token in lacking if re.search(r"start|end|user|assistant|system", token)]
    if turns:
        listed = ", ".join(turns[:5])
        return [f"its chat template writes {listed}, which its tokenizer does not have as tokens"]
    return []


def _instead(folder: Path, tokens: dict[str, int]) -> str:
    """Names one of our templates that would work, if there is one."""
    if _config(folder / "config.json").get("model_type") == "llava":
        for name in ("vicuna_v1", "phi"):
            if TEMPLATES[name].end in tokens:
                return f"Set target.template={name} (reference.template for a reference)"
    return "Save its template as chat_template.jinja in its folder, or take a model that has one"


def chat_template(folder: Path) -> str:
    """The chat template in the files of ``folder``; empty if there is none."""
    plain = folder / "chat_template.jinja"
    if plain.is_file():
        return plain.read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        found = _config(folder / name).get("chat_template")
        if isinstance(found, list):  # several, by name
            found = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
        if isinstance(found, dict):
            found = found.get("default")
        if found:
            return str(found)
    return ""


def vocabulary(folder: Path) -> dict[str, int]:
    """Token -> id from ``tokenizer.json``, added tokens included; empty without the file."""
    found = _config(folder / "tokenizer.json")
    inner = (found.get("model") or {}).get("vocab") or {}
    if isinstance(inner, dict):
        tokens = {str(token): int(number) for token, number in inner.items()}
    else:  # Unigram: a list of token and score
        tokens = {str(entry[0]): number for number, entry in enumerate(inner)}
    added = found.get("added_tokens") or ()
    later = _config(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
    return {
        **tokens,
        **{str(each["content"]): int(each["id"]) for each in added},
        **{str(each["content"]): int(number) for number, each in later.items()},
    }


def _image_token(folder: Path) -> int | None:
    config = _config(folder / "config.json")
    for name in ("image_token_id", "image_token_index"):
        found = config.get(name)
        if isinstance(found, int) and found >= 0:
            return found
    return None


def _config(file: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        found = json.loads(file.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}
