"""Read and write the tensors of checkpoint files without holding a model in memory.

The files are memory-mapped: tensors are read when they are written elsewhere, so the files must not
change in the meantime.
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
"""Largest shard in bytes, and about the memory that writing needs."""


def read_tensors(files: Sequence[Path]) -> dict[str, torch.Tensor]:
    """Name -> tensor, for all weight files among ``files``.

    Pickled files (``.bin``) are read with ``torch.load(weights_only=True)``, which only makes
    tensors and plain containers and runs no other code. Raises :class:`UserError` for a file that
    contains more.
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
    """Write ``tensors`` as safetensors that ``from_pretrained`` reads, each in its own dtype.

    Shards have at most ``limit`` bytes, unless a single tensor is larger; those that an earlier,
    killed attempt finished are kept.
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
    """Names in alphabetical order, divided into groups of at most ``limit`` bytes."""
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
