"""Tensors in and out of checkpoint files, without holding a model in memory.

What is read stays in the file until it is written: the files are memory-mapped, and must not
change meanwhile.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coincide.schema import UserError
from coincide.system.files import write_atomic, write_json

if TYPE_CHECKING:
    import torch

SHARD = 2 * 1024**3
"""Most bytes of a shard written, and about what writing holds in memory."""


def read_tensors(files: Sequence[Path]) -> dict[str, torch.Tensor]:
    """Every tensor in the weight files among ``files``, by name.

    Pickled files (``.bin``) are read by ``torch.load(weights_only=True)``, which makes tensors
    and plain containers and runs nothing else. Raises :class:`UserError` for a file with more.
    """
    found: dict[str, torch.Tensor] = {}
    for file in files:
        if file.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(file, "pt") as stored:
                found |= {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        elif file.suffix == ".bin":
            found |= _unpickle(file)
    return found


def _unpickle(file: Path) -> dict[str, torch.Tensor]:
    import torch

    try:
        state = torch.load(
            file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file)
        )
    except Exception as error:  # torch raises UnpicklingError, RuntimeError, EOFError ...
        raise UserError(
            f"{file} is no plain file of tensors: {str(error).splitlines()[0]}\nOnly tensors are "
            "read from pickled files, never objects. Fetch it again or convert it to safetensors."
        ) from error
    if not isinstance(state, dict) or not all(torch.is_tensor(t) for t in state.values()):
        raise UserError(f"{file}: expected a dict of name to tensor, got {type(state).__name__}.")
    return state


def write_tensors(folder: Path, tensors: Mapping[str, torch.Tensor], limit: int = SHARD) -> None:
    """Write ``tensors`` as safetensors that ``from_pretrained`` reads, each with its own dtype.

    Shards hold at most ``limit`` bytes where a tensor allows it; those that an earlier, killed
    attempt finished are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    groups = list(_groups(tensors, limit))
    total = len(groups)
    where: dict[str, str] = {}
    for number, names in enumerate(groups, 1):
        file = "model.safetensors"
        if total > 1:
            file = f"model-{number:05d}-of-{total:05d}.safetensors"
            where |= dict.fromkeys(names, file)
        if not (folder / file).is_file():
            _write_shard(folder / file, {name: tensors[name] for name in names})
    if where:
        size = sum(tensor.nbytes for tensor in tensors.values())
        index = {"metadata": {"total_size": size}, "weight_map": where}
        write_json(folder / "model.safetensors.index.json", index)


def _groups(tensors: Mapping[str, torch.Tensor], limit: int) -> Iterator[list[str]]:
    """Names in order of the alphabet, cut where ``limit`` would be passed."""
    names: list[str] = []
    size = 0
    for name in sorted(tensors):
        if names and size + tensors[name].nbytes > limit:
            yield names
            names, size = [], 0
        names.append(name)
        size += tensors[name].nbytes
    yield names


def _write_shard(file: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    apart: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
        shared = tensor.data_ptr() in seen
        seen.add(tensor.data_ptr())
        apart[name] = tensor if whole and not shared else tensor.clone().contiguous()
    write_atomic(file, lambda path: save_file(apart, path, metadata={"format": "pt"}))
