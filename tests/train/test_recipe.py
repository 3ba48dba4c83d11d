"""The recipe: YAML files, the key, and what is refused."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml

from coincide.schema import UserError
from train.recipe import SPEED_ONLY, Recipe, largest_micro_batch

CONF = Path(__file__).parents[2] / "conf" / "train"


def load(name: str) -> Recipe:
    content = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    assert content.pop("_target_") == "train.recipe.Recipe"
    return Recipe(**content)


@pytest.mark.parametrize("name", ["lora", "demo"])
def test_yaml_says_every_field(name: str) -> None:
    content = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    assert set(content) == {f.name for f in fields(Recipe)} | {"_target_"}
    load(name)


def test_lora_yaml_is_the_llava_recipe() -> None:
    recipe = load("lora")
    assert recipe == Recipe()
    assert (recipe.rank, recipe.alpha, recipe.dropout) == (128, 256, 0.05)
    assert (recipe.lr, recipe.projector_lr, recipe.weight_decay) == (2e-4, 2e-5, 0.0)
    assert (recipe.global_batch, recipe.epochs, recipe.max_length) == (128, 1, 2048)


def test_answer_config_leaves_out_what_only_changes_speed() -> None:
    recipe = Recipe()
    faster = replace(
        recipe, micro_batch=4, zero_stage=2, processes=8, save_every=None, workers=0, nodes=2
    )
    still = Recipe(dropout=0.0, precision="fp32", zero_stage=0)
    assert replace(still, merged=True).answer_config() == still.answer_config()
    assert faster.answer_config() == recipe.answer_config()
    assert replace(recipe, lr=1e-4).answer_config() != recipe.answer_config()
    assert {f.name for f in fields(Recipe)} >= SPEED_ONLY


def test_accumulation_follows_from_the_world_size() -> None:
    recipe = Recipe(global_batch=128, micro_batch=4)
    assert [recipe.accumulation(w) for w in (1, 2, 4, 8)] == [32, 16, 8, 4]


def test_indivisible_batch_names_what_works() -> None:
    with pytest.raises(UserError, match=r"global_batch=96 or 144") as refused:
        Recipe(global_batch=128, micro_batch=16).accumulation(3)
    assert "train.micro_batch" not in str(refused.value).partition("Set ")[2]
    with pytest.raises(UserError, match=r"global_batch=60 or 80, or train\.micro_batch=4\."):
        Recipe(global_batch=64, micro_batch=5, processes=4)


def test_largest_micro_batch_divides() -> None:
    assert largest_micro_batch(24, 2, 5) == 4
    assert largest_micro_batch(24, 5, 5) is None
    assert largest_micro_batch(24, 1, 0) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"zero_stage": 1}, "choose one of 0, 2, 3"),
        ({"precision": "int8"}, "choose one of auto, bf16, fp32"),
        ({"schedule": "step"}, "choose one of cosine, linear, constant"),
        ({"processes": 0}, "or auto"),
        ({"rank": 0}, "1 or more"),
        ({"epochs": 1.5}, "whole number"),
        ({"dropout": 1.0}, "0 <= x < 1"),
        ({"lr": float("nan")}, "0 or more"),
        ({"max_steps": 0}, "or null"),
        ({"workers": -1}, "0 or more"),
        ({"merged": "yes"}, "true or false"),
        ({"merged": True}, "dropout=0.05, train.precision=auto, train.zero_stage=3"),
    ],
)
def test_bad_values_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Recipe(**change)  # type: ignore[arg-type]
