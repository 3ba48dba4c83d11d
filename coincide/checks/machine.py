"""Requirements on the machine: package versions, devices, compilers, space for the store."""

from __future__ import annotations

import os
import shutil
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement as Package

from coincide.protocols import Requirement
from coincide.system.disk import size_text

if TYPE_CHECKING:
    from coincide.experiment import Experiment

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def machine_requirements(asked: Iterable[tuple[Experiment, Sequence[str]]]) -> list[Requirement]:
    """Requirements that belong to no config group; ``asked``: experiments with their stages."""
    stores = {experiment.store.root for experiment, _ in asked}
    return [
        packages(PYPROJECT),
        devices(),
        *compilers(),
        *(store_space(root) for root in sorted(stores)),
    ]


def packages(pyproject: Path) -> Requirement:
    """Whether the installed packages are in the version ranges of ``pyproject``."""
    listed = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]
    wrong = list(_wrong(Package(line) for line in listed))
    found = ", ".join(wrong) or f"{len(listed)} packages in the ranges of {pyproject.name}"
    remedy = "make install, or pip install -r requirements.lock"
    return Requirement("packages", not wrong, found, remedy)


def _wrong(wanted: Iterable[Package]) -> Iterator[str]:
    for package in wanted:
        try:
            installed = version(package.name)
        except PackageNotFoundError:
            yield f"{package.name} is not installed ({package.specifier or 'any'} expected)"
            continue
        if not package.specifier.contains(installed, prereleases=True):
            yield f"{package.name} {installed} ({package.specifier} expected)"


def devices() -> Requirement:
    """The GPUs that torch sees. Not fatal without any: the demo runs on the CPU."""
    import torch

    count = torch.cuda.device_count()
    names = [torch.cuda.get_device_properties(i) for i in range(count)]
    gpus = ", ".join(f"{p.name} ({size_text(p.total_memory)})" for p in names)
    built = f"torch {torch.__version__}, CUDA {torch.version.cuda or 'not built in'}"
    cores = len(os.sched_getaffinity(0))
    found = f"{gpus or f'no GPU, {cores} CPU cores'}; {built}"
    remedy = "a model of billions of parameters needs GPUs; the demo does not"
    return Requirement("devices", count > 0, found, remedy, fatal=False)


def compilers() -> list[Requirement]:
    """g++ and ninja, with which DeepSpeed compiles its communication op on first use."""
    found = []
    for program in ("g++", "ninja"):
        path = shutil.which(program)
        remedy = f"install {program}: DeepSpeed compiles an op with it on first use"
        found.append(Requirement(program, path is not None, path or "not found", remedy))
    return found


def store_space(root: Path) -> Requirement:
    """Whether the store in ``root`` can be written, and how much space is free."""
    place = next(p for p in (root, *root.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    writable = os.access(place, os.W_OK)
    found = f"{root}: {size_text(free)} free" if writable else f"{place} cannot be written"
    return Requirement("store", writable, found, "choose another folder: paths.store=...")
