"""Requirements of finetuning, checked before it is queued: packages, batch sizes, memory, disk,
layout.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from coincide.models.headers import shapes
from coincide.protocols import HasCheckpoint, Requirement
from coincide.schema import UserError
from coincide.store import Step, Store
from train.checkpoint import newest_complete
from train.devices import Gpu, gpus
from train.estimate import CHECKPOINTS_AT_ONCE, GIB, checkpoint_bytes, memory_estimate
from train.lora import PROJECTORS
from train.recipe import Recipe

ON_DISK = ("mlp_AR", "image_projector")
"""Names of projectors in files that transformers loads under another: PaddleOCR-VL's, Molmo 2's."""


def requirements(
    recipe: Recipe,
    *,
    parameters: int | None = None,
    folder: Path | None = None,
    devices: Sequence[Gpu] | None = None,
) -> list[Requirement]:
    """The requirements of ``recipe`` on this machine.

    ``parameters``: of the base model, if known; ``folder``: where checkpoints go; ``devices``: the
    GPUs of this machine, looked up if None.
    """
    seen = gpus() if devices is None else tuple(devices)
    found = [package("deepspeed", "its pinned torch beside it")] if recipe.zero_stage else []
    if recipe.quantization:
        found.append(package("bitsandbytes", "0.49 or newer also trains on a CPU"))
    found += [processes(recipe, seen), batches(recipe, seen)]
    if parameters is not None and seen:
        found.append(memory(recipe, parameters, seen))
    if parameters is not None and folder is not None:
        found.append(disk(recipe, parameters, folder))
    return found


def trainable(model: Any) -> list[Requirement]:
    """Whether ``model`` has the parts that LoRA finetuning adapts.

    Decided by the tensor names in the headers of its safetensors files, if it is a folder of such.
    """
    if not isinstance(model, HasCheckpoint):
        return []
    checkpoint = model.checkpoint
    if not checkpoint.requirement().met:
        return []
    names = shapes(checkpoint.paths())
    found = {path for name in names for path in _projectors(name)}
    experts = _experts(names)
    if names and not found:
        remedy = (
            f"train an image-text model with a projector, named {', '.join(PROJECTORS)} "
            "(docs/MODELS.md); text models and folders of adapters have none"
        )
        return [
            Requirement(f"projector of {checkpoint.repo}", False, "0 projectors (none)", remedy)
        ]
    return [experts_stay(checkpoint.repo, names, experts)] if experts else []


def experts_stay(
    repo: str, names: Mapping[str, tuple[int, ...]], experts: Sequence[str]
) -> Requirement:
    """What the plan says of a mixture of experts: LoRA does not adapt them. Not fatal."""
    share = sum(math.prod(names[name]) for name in experts) / sum(map(math.prod, names.values()))
    return Requirement(
        f"experts of {repo}",
        False,
        f"its experts, {share:.0%} of the weights, stay as they are: LoRA adapts linear layers, "
        "and transformers holds experts as one tensor",
        "Nothing need be done: attention and projector are trained. For a model whose feed-forward "
        "layers are adapted too choose a dense one.",
        fatal=False,
    )


def _experts(names: Iterable[str]) -> list[str]:
    """The tensors of experts among the names on disk, where each may stand for itself."""
    return [name for name in names if ".experts." in name and ".shared_experts." not in name]


def _projectors(tensor: str) -> list[str]:
    """Paths of the projectors that the tensor named ``tensor`` may belong to."""
    parts = tensor.split(".")
    places = [i for i, part in enumerate(parts) if part in (*PROJECTORS, *ON_DISK)]
    return [".".join(parts[: i + 1]) for i in places]


def package(name: str, what: str) -> Requirement:
    """Whether the package ``name`` is installed, without importing it."""
    met = find_spec(name) is not None
    found = "installed" if met else "not installed"
    return Requirement(f"package {name}", met, found, f"pip install {name} ({what})")


def ranks(recipe: Recipe, devices: Sequence[Gpu]) -> int:
    """Number of processes over all nodes, if they are machines like this one."""
    each = max(1, len(devices)) if recipe.processes == "auto" else int(recipe.processes)
    return each * recipe.nodes


def processes(recipe: Recipe, devices: Sequence[Gpu]) -> Requirement:
    """Whether every process of a node has a GPU of its own."""
    wanted = len(devices) if recipe.processes == "auto" else int(recipe.processes)
    met = not devices or wanted <= len(devices)
    found = f"{len(devices)} GPU(s)" if devices else "no GPU here"
    remedy = f"set train.processes=auto, or at most {len(devices)}"
    return Requirement(f"{wanted or 1} process(es) a node", met, found, remedy)


def batches(recipe: Recipe, devices: Sequence[Gpu]) -> Requirement:
    """Whether processes and micro-batch divide the global batch."""
    world_size = ranks(recipe, devices)
    name = f"global batch {recipe.global_batch}"
    try:
        steps = recipe.accumulation(world_size)
    except UserError as error:
        return Requirement(name, False, f"{world_size} process(es)", str(error))
    micro = recipe.micro_batch
    return Requirement(name, True, f"{world_size} process(es) x {micro} x {steps} accumulated")


def memory(recipe: Recipe, parameters: int, devices: Sequence[Gpu]) -> Requirement:
    """Whether the memory estimate fits the smallest GPU.

    Not fatal: a smaller micro-batch is then tried.
    """
    estimate = memory_estimate(recipe, parameters=parameters, world_size=ranks(recipe, devices))
    smallest = min(devices, key=lambda gpu: gpu.bytes)
    least = smallest.bytes >= 1.1 * (estimate.weights + estimate.trained)
    return Requirement(
        "GPU memory",
        estimate.total <= smallest.bytes,
        f"{estimate}; {smallest.name} has {smallest.bytes / GIB:.0f} GiB",
        "a smaller train.micro_batch (found by itself when memory runs out), train=qlora, "
        "train.zero_stage=3 over more GPUs",
        fatal=not least,
    )


def disk(recipe: Recipe, parameters: int, folder: Path) -> Requirement:
    """Whether checkpoints and adapter fit on the disk of ``folder``."""
    copies = CHECKPOINTS_AT_ONCE if recipe.save_every else 1
    needed = copies * checkpoint_bytes(recipe, parameters=parameters)
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    return Requirement(
        "disk for checkpoints",
        free >= needed,
        f"{needed / GIB:.1f} GiB needed at most, {free / GIB:.1f} GiB free in {there}",
        "free space, choose another paths.store, or train.save_every=null",
    )


def resumable(store: Store, step: Step, recipe: Recipe) -> Requirement | None:
    """Whether this layout can resume from the checkpoint that a stopped run of ``step`` left.

    None if there is no checkpoint. With ``processes: auto`` on a machine without GPUs the number of
    processes is not known yet, so only the ZeRO stage is compared.
    """
    found = newest_complete(store.partial(step) / "checkpoints")
    if found is None:
        return None
    seen = gpus()
    unknown = recipe.processes == "auto" and not seen
    world_size = found.world_size if unknown else ranks(recipe, seen)
    name = f"resume {step.folder}"
    try:
        found.check_layout(world_size, recipe.zero_stage)
    except UserError as error:
        return Requirement(name, False, f"checkpoint at step {found.step:,}", str(error))
    return Requirement(name, True, f"goes on at step {found.step:,}")
