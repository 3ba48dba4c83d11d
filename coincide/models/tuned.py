"""A base model with a trained adapter merged into it.

LoRA (Hu et al. 2021): W + s B A, with s = alpha / r, or alpha / sqrt(r) with ``use_rslora``.
Modules that were trained in full (the projector) replace those of the base.
"""

from __future__ import annotations

import glob
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coincide.models.processor import ProcessorFiles
from coincide.models.weights import content
from coincide.protocols import Requirement, requirements_of, scale_of
from coincide.schema import ModelSource, UserError
from coincide.store import Build, Step, check_path

if TYPE_CHECKING:
    import torch

VERSION = 1
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MOMENTS = "moments.safetensors"
"""Adam's moments beside an adapter that a warm-up kept: of the tensor ``x`` of ``WEIGHTS``
``x.exp_avg`` and ``x.exp_avg_sq``."""
RULES = ("r", "lora_alpha", "use_rslora", "fan_in_fan_out", "rank_pattern", "alpha_pattern")
"""Fields of an adapter's configuration on which the merged weights depend."""
PREFIX, LORA = "base_model.model.", re.compile(r"(.+)\.lora_([AB])\.weight")


@dataclass(frozen=True)
class Tuned:
    """``base`` with ``adapter`` merged in.

    ``adapter``: a PEFT folder, an artifact of the store that contains one, or a pattern with ``*``
    that matches exactly one of those.
    """

    base: ModelSource
    adapter: str
    name: str
    remedy: str = ""
    """How to make the adapter, for the error message if it is missing."""
    layers: Sequence[int] = ()
    """For a reference: decoder layers that COINCIDE reads, counted from 0."""
    dtype: str = "float16"
    """For a reference: precision of the feature pass."""

    @property
    def scale(self) -> Mapping[str, Any]:
        """That of the base, for estimates."""
        return scale_of(self.base)

    @property
    def template(self) -> str:
        return self.base.template

    @property
    def max_length(self) -> int:
        return self.base.max_length

    def requirements(self) -> Sequence[Requirement]:
        """The base's weights, and the adapter."""
        found = find_adapter(self.adapter)
        met = isinstance(found, Path)
        remedy = "" if met else self.remedy or "Set adapter to the folder of a trained adapter."
        return [
            *requirements_of(self.base),
            Requirement(f"adapter of {self.name}", met, str(found), remedy),
        ]

    def processor(self) -> ProcessorFiles:
        """That of the base."""
        return self.base.processor()

    def step(self) -> Step:
        """The step that merges. Its key contains the adapter's weights and merging rules, not its
        path.
        """
        found = find_adapter(self.adapter)
        config: dict[str, Any] = {"adapter": self.adapter}
        if isinstance(found, Path):
            check_path(found)
            rules = _rules(found)
            config = {"adapter": content([found / WEIGHTS]), "rules": rules}
        return Step("model", self.name, VERSION, config, self._build, (self.base.step(),))

    def _build(self, build: Build) -> Mapping[str, Any]:
        import torch
        from transformers import AutoConfig

        from coincide.models.load import load_model, load_processor

        found = find_adapter(self.adapter)
        if not isinstance(found, Path):
            raise UserError(f"adapter of {self.name}: {found}. {self.remedy}")
        build.store.ensure(build.step.needs[0])
        base = build.need(0).path / "model"
        stored = AutoConfig.from_pretrained(base, local_files_only=True).dtype or torch.float32
        model = load_model(base, stored, "cpu")
        build.expect(sum(tensor.nbytes for tensor in model.state_dict().values()))
        merged = merge(model, found)
        model.save_pretrained(build.dir / "model")
        load_processor(base).save_pretrained(build.dir / "model")
        return {"merged": merged}


def find_adapter(where: str) -> Path | str:
    """The folder with the adapter's files; or, as text, why there is none."""
    path = Path(where).expanduser()
    candidates = sorted(glob.glob(str(path))) if "*" in where else [str(path)]  # noqa: PTH207
    found = [
        folder
        for name in candidates
        for folder in (Path(name), Path(name) / "adapter")
        if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()
    ]
    if len(found) == 1:
        return found[0]
    if found:
        return f"{len(found)} match {where}: {', '.join(map(str, found[:5]))}; name one"
    return f"no adapter at {where} (expected {CONFIG} and {WEIGHTS})"


def merge(model: Any, folder: Path) -> int:
    """Merge the adapter in ``folder`` into ``model``, in place.

    Returns the number of weights changed. The sum is computed in float32 and rounded once to the
    weight's precision. Raises :class:`UserError` for an adapter that is not plain LoRA or does not
    fit the model.
    """
    import torch

    weights = dict(model.named_parameters())
    adapter = read_adapter(folder)
    check_known(folder, [*(f"{name}.weight" for name in adapter.lora), *adapter.whole], weights)
    with torch.no_grad():
        for module, lora in adapter.lora.items():
            name, change = f"{module}.weight", lora.scale * (lora.b @ lora.a)
            change = change.T if lora.transposed else change
            weights[name].copy_(_fitting(name, weights[name].float(), change, folder) + change)
        for name, tensor in adapter.whole.items():
            weights[name].copy_(_fitting(name, tensor, weights[name], folder))
    return len(adapter.lora) + len(adapter.whole)


@dataclass(frozen=True)
class Lora:
    """The low-rank part of one linear layer: W + ``scale`` B A."""

    a: torch.Tensor
    """float32 [r, in]."""
    b: torch.Tensor
    """float32 [out, r]."""
    scale: float
    transposed: bool
    """Whether the base holds its weight as [in, out]."""


@dataclass(frozen=True)
class AdapterWeights:
    """What an adapter's file holds, by the names of the base."""

    lora: Mapping[str, Lora]
    """Module -> its low-rank part."""
    whole: Mapping[str, torch.Tensor]
    """Tensors that replace those of the base."""


def read_adapter(folder: Path) -> AdapterWeights:
    """The adapter in ``folder``. Raises :class:`UserError` for one that is not plain LoRA."""
    from safetensors.torch import load_file

    rules = _rules(folder)
    parts: dict[str, dict[str, torch.Tensor]] = {}
    whole: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(folder / WEIGHTS).items():
        name = name.removeprefix(PREFIX)
        if match := LORA.fullmatch(name):
            parts.setdefault(match[1], {})[match[2]] = tensor.float()
        else:
            whole[name] = tensor
    transposed = bool(rules["fan_in_fan_out"])
    lora = {n: Lora(p["A"], p["B"], scale(n, rules), transposed) for n, p in parts.items()}
    return AdapterWeights(lora, whole)


def check_known(folder: Path, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise UserError unless all of ``names``, tensors of the adapter in ``folder``, are among the
    ``known`` ones of the model.
    """
    strangers = sorted(set(names) - set(known))
    if strangers:
        raise UserError(
            f"{folder} was trained on another model: this one has no {', '.join(strangers[:3])}."
        )


def scale(module: str, rules: Mapping[str, Any]) -> float:
    """The factor s of W + s B A for ``module``.

    Patterns match its name or the end of it, as in PEFT.
    """
    rank = _by_pattern(module, rules["rank_pattern"], rules["r"])
    alpha = _by_pattern(module, rules["alpha_pattern"], rules["lora_alpha"])
    return float(alpha / (math.sqrt(rank) if rules["use_rslora"] else rank))


def _by_pattern(module: str, patterns: Mapping[str, Any], default: Any) -> Any:
    matches = (v for p, v in patterns.items() if re.fullmatch(rf"(.*\.)?({p})", module))
    return next(matches, default)


def _fitting(name: str, tensor: torch.Tensor, other: torch.Tensor, folder: Path) -> torch.Tensor:
    if tensor.shape != other.shape:
        raise UserError(
            f"{folder} was trained on another model: {name} is {list(tensor.shape)} against "
            f"{list(other.shape)}."
        )
    return tensor


def _rules(folder: Path) -> dict[str, Any]:
    """The adapter's merging rules; UserError if it is not plain LoRA."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    beyond = [key for key in ("use_dora", "lora_bias", "use_qalora") if config.get(key)]
    beyond += [f"bias={config['bias']}"] if config.get("bias", "none") != "none" else []
    if config.get("peft_type") != "LORA" or beyond:
        raise UserError(
            f"{folder} is {config.get('peft_type')} {' '.join(beyond)}: only plain LoRA is merged. "
            "Merge it with peft's merge_and_unload and use the saved model."
        )
    defaults = {"use_rslora": False, "fan_in_fan_out": False}
    return {
        key: config.get(key) or ({} if key.endswith("pattern") else defaults.get(key))
        for key in RULES
    }
