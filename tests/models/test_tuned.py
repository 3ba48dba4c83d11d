"""An adapter merged into its base equals what peft's ``merge_and_unload`` gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from coincide.models.hub import Hub
from coincide.models.load import load_model, load_processor
from coincide.models.tuned import Tuned, find_adapter
from coincide.schema import UserError
from coincide.store import Store
from tests.tiny_llava import make_tiny_llava

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {r"layers\.1\..*v_proj": 32}},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Hub:
    return Hub(str(make_tiny_llava(tmp_path_factory.mktemp("base"))), template="tiny")


def adapter(base: Hub, folder: Path, **options: Any) -> dict[str, torch.Tensor]:
    """Save an adapter with random weights; what peft makes of base and adapter."""
    from peft import LoraConfig, get_peft_model

    model = load_model(Path(base.repo), torch.float32, "cpu")
    config = LoraConfig(
        r=4, lora_alpha=16, target_modules=r".*language_model.*\.(q_proj|v_proj|down_proj)",
        modules_to_save=["multi_modal_projector"], init_lora_weights=False, **options,
    )  # fmt: skip
    torch.manual_seed(0)
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad and "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter))
    adapted.save_pretrained(folder)
    return adapted.merge_and_unload().state_dict()


@pytest.mark.parametrize("variant", VARIANTS)
def test_merged_as_peft_merges(variant: str, base: Hub, tmp_path: Path) -> None:
    expected = adapter(base, tmp_path / "adapter", **VARIANTS[variant])
    store = Store(tmp_path / "store")
    source = Tuned(base, str(tmp_path / "adapter"), "tuned")
    artifact = store.ensure(source.step())  # builds its base as well
    made = load_model(artifact.path / "model", torch.float32, "cpu").state_dict()
    original = load_model(Path(base.repo), torch.float32, "cpu").state_dict()
    changed = [name for name in original if not torch.equal(made[name], original[name])]
    assert made.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(made[name], tensor, atol=1e-6, rtol=0)
    assert len(changed) == artifact.facts["merged"] == 2 * 3 + 4
    assert load_processor(artifact.path / "model").image_token == "<image>"


def test_in_half_precision_it_is_rounded_once(base: Hub, tmp_path: Path) -> None:
    from coincide.models.tuned import merge

    expected = adapter(base, tmp_path / "adapter")
    original = load_model(Path(base.repo), torch.float32, "cpu").state_dict()
    model = load_model(Path(base.repo), torch.bfloat16, "cpu")
    merge(model, tmp_path / "adapter")
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    change = expected[name] - original[name]
    exact = original[name].bfloat16().float() + change
    assert (model.state_dict()[name].float() - exact).abs().max() <= exact.abs().max() * 2**-8


def test_it_stands_in_for_its_base(base: Hub, tmp_path: Path) -> None:
    source = Tuned(base, str(tmp_path), "tuned", layers=(0, 1))
    assert (source.template, source.max_length) == ("tiny", 2048)


def test_artifact_and_pattern(base: Hub, tmp_path: Path) -> None:
    artifact = tmp_path / "store" / "adapter" / "tiny-full-demo-0123456789ab"
    adapter(base, artifact / "adapter")
    pattern = str(tmp_path / "store" / "adapter" / "tiny-full-*")
    for where in (str(artifact), str(artifact / "adapter"), pattern):
        assert find_adapter(where) == artifact / "adapter"
    shutil.copytree(artifact, artifact.with_name("tiny-full-demo-ba9876543210"))
    assert "2 match" in str(find_adapter(pattern))


def test_key_follows_the_weights_not_their_place(base: Hub, tmp_path: Path) -> None:
    adapter(base, tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    config = json.loads((tmp_path / "b" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "/somewhere/else"
    (tmp_path / "b" / "adapter_config.json").write_text(json.dumps(config))
    keys = [Tuned(base, str(tmp_path / name), "tuned").step().key for name in "ab"]
    assert keys[0] == keys[1]
    (tmp_path / "b" / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 8}))
    assert Tuned(base, str(tmp_path / "b"), "tuned").step().key != keys[0]


def test_a_missing_adapter_says_how_to_train_it(base: Hub, tmp_path: Path) -> None:
    source = Tuned(base, str(tmp_path / "none*"), "tuned", remedy="Train it with X.")
    missing = [requirement for requirement in source.requirements() if not requirement.met]
    assert [(m.name, m.remedy) for m in missing] == [("adapter of tuned", "Train it with X.")]
    store = Store(tmp_path / "store")
    with pytest.raises(UserError, match=r"no adapter at .*Train it with X\."):
        store.ensure(source.step())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "only plain LoRA is merged"),
        ({"bias": "all"}, "bias=all: only plain LoRA is merged"),
        ({"peft_type": "IA3"}, "is IA3"),
    ],
)
def test_other_adapters_are_refused(
    change: dict[str, Any], message: str, base: Hub, tmp_path: Path
) -> None:
    adapter(base, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=message):
        Tuned(base, str(tmp_path / "adapter"), "tuned").step()


def test_an_adapter_of_another_model(base: Hub, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from coincide.models.tuned import merge

    adapter(base, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    state = load_file(file)
    model = load_model(Path(base.repo), torch.float32, "cpu")
    save_file({name.replace("layers.1", "layers.7"): t for name, t in state.items()}, file)
    with pytest.raises(UserError, match=r"this one has no .*layers\.7"):
        merge(model, tmp_path / "adapter")
    save_file({n: t[:, :3].clone() if "lora_A" in n else t for n, t in state.items()}, file)
    with pytest.raises(UserError, match=r"_proj\.weight is .* against"):
        merge(model, tmp_path / "adapter")
