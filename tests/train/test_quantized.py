"""QLoRA: what stays whole, what is refused, and training over a 4-bit base for real."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from coincide.schema import UserError
from coincide.store import Artifact
from tests.train.test_recipe import CONF, load
from tests.train.test_training import assert_same_answer, losses, trained
from tests.train.tiny import Bench
from train.quantized import unquantized_linears
from train.recipe import Recipe

NF4 = {"quantization": "nf4"}
needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is an optional package"
)


def qlora() -> Recipe:
    content = yaml.safe_load((CONF / "qlora.yaml").read_text())
    assert content.pop("defaults") == ["lora", "_self_"]
    fields = {**yaml.safe_load((CONF / "lora.yaml").read_text()), **content}
    return Recipe(**{name: value for name, value in fields.items() if name != "_target_"})


def test_qlora_yaml_is_lora_over_four_bits() -> None:
    recipe, lora = qlora(), load("lora")
    assert recipe.quantization == "nf4"
    assert recipe.zero_stage == 2
    changed = {k for k, v in recipe.answer_config().items() if lora.answer_config().get(k) != v}
    assert changed == {"quantization"}


def test_without_quantization_adapters_keep_their_key() -> None:
    assert "quantization" not in load("lora").answer_config()


def test_shards_of_four_bit_blocks_are_refused() -> None:
    with pytest.raises(UserError, match=r"nf4 with train\.zero_stage=3.*Set train\.zero_stage=2"):
        Recipe(quantization="nf4", zero_stage=3)
    with pytest.raises(UserError, match=r"quantization='int8'.*choose one of None, nf4"):
        Recipe(quantization="int8", zero_stage=2)


def test_all_but_the_language_model_stays_whole(made: Path) -> None:
    folder = next((made / "target").glob("tiny-*")) / "model"
    whole = unquantized_linears(folder)
    assert "lm_head" in whole
    assert {name.split(".")[1] for name in whole if "." in name} == {
        "vision_tower",
        "multi_modal_projector",
    }


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_a_missing_package_is_named(bench: Bench) -> None:
    with pytest.raises(UserError, match=r"pip install bitsandbytes"):
        bench.store.ensure(bench.step(zero_stage=0, **NF4))


@pytest.fixture(scope="module")
def quantized(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return trained(made, tmp_path_factory.mktemp("nf4"), **NF4)


@needs_bitsandbytes
@pytest.mark.slow
def test_training_over_four_bits(
    quantized: Artifact, made: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It learns, almost as the whole model does, and saves an adapter of the same form."""
    whole = trained(made, tmp_path_factory.mktemp("whole"))
    assert quantized.facts["loss_last"] < 0.95 * quantized.facts["loss_first"]
    difference = [
        abs(a - b) for a, b in zip(losses(quantized.path), losses(whole.path), strict=True)
    ]
    assert 0 < max(difference) < 0.5
    configs = [
        json.loads((a.path / "adapter" / "adapter_config.json").read_text())
        for a in (quantized, whole)
    ]
    assert configs[0] == configs[1]
    assert quantized.facts["trained_parameters"] == whole.facts["trained_parameters"]


@needs_bitsandbytes
@pytest.mark.slow
@pytest.mark.parametrize(("zero_stage", "processes"), [(2, 1), (2, 2), (0, 2)])
def test_layout_does_not_change_the_answer(
    quantized: Artifact, bench: Bench, zero_stage: int, processes: int
) -> None:
    step = bench.step(zero_stage=zero_stage, processes=processes, **NF4)
    assert_same_answer(bench.store.ensure(step).path, quantized.path)
