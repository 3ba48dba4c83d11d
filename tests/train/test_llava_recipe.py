"""The recipe against LLaVA's own trainer: its outputs are in ``tests/assets/llava_recipe``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn
from torch.utils.data import DataLoader

from tests.train.test_launch import job
from tests.train.test_recipe import load
from train.lora import add_lora, parameter_groups, save_adapter, target_modules, trainable_state
from train.recipe import Recipe
from train.sampler import FILLER, Permute, global_batches, micro_batches, number_of_steps
from train.trainer import LoraTrainer, answer_loss
from train.worker import training_arguments

ASSETS = Path(__file__).parents[1] / "assets" / "llava_recipe"
CASES = json.loads((ASSETS / "sampler.json").read_text())
LLAVA = json.loads((ASSETS / "recipe.json").read_text())
RECIPE = Recipe(rank=4, alpha=8, weight_decay=0.1)


def ours(name: str) -> str:
    """A parameter of LLaVA's model under its name in transformers' Llava."""
    name = name.replace("model.model.layers", "model.model.language_model.layers")
    for index, linear in (("0", "linear_1"), ("2", "linear_2")):
        name = name.replace(f"mm_projector.{index}", f"multi_modal_projector.{linear}")
    return name


def plain(name: str) -> str:
    """Without what PEFT puts in for modules trained whole."""
    return name.replace("modules_to_save.default.", "")


# --- the order of the examples ----------------------------------------------------------------


def replay(permutations: list[list[int]]) -> Permute:
    drawn: Iterator[list[int]] = iter(permutations)

    def permute(n: int) -> np.ndarray:
        permutation = np.array(next(drawn), dtype=np.int64)
        assert len(permutation) == n
        return permutation

    return permute


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{len(c['lengths'])}x{c['global_batch']}")
def test_global_batches_are_those_of_the_grouped_sampler(case: dict[str, Any]) -> None:
    """For every split of the global batch into processes, accumulation and micro-batch."""
    size, text_only = case["global_batch"], np.array(case["lengths"]) < 0
    for split in case["splits"]:
        assert split["world_size"] * split["batch_size"] == size
        theirs = [split["order"][at : at + size] for at in range(0, len(text_only), size)]
        made = global_batches(text_only, size, replay(split["permutations"]), group=True)
        assert [sorted(batch) for batch in made] == [sorted(batch) for batch in theirs]


@pytest.mark.parametrize(
    "case", CASES[:4], ids=lambda c: f"{len(c['lengths'])}x{c['global_batch']}"
)
def test_processes_share_the_same_global_batches(case: dict[str, Any]) -> None:
    """As LLaVA's at each of its splits: the union over our ranks is one of its global batches."""
    size, lengths = case["global_batch"], np.abs(case["lengths"])
    text_only = np.array(case["lengths"]) < 0
    made = global_batches(text_only, size, replay(case["splits"][0]["permutations"]), group=True)
    for split in case["splits"]:
        for batch in made:
            shares = [
                micro_batches(
                    batch,
                    lengths,
                    global_batch=size,
                    micro_batch=split["batch_size"],
                    rank=rank,
                    world_size=split["world_size"],
                )
                for rank in range(split["world_size"])
            ]
            rows = [row for share in shares for micro in share for row in micro if row != FILLER]
            assert sorted(rows) == sorted(batch)


def test_the_last_batch_is_where_we_differ() -> None:
    """accelerate repeats the first examples; ours are rows that add nothing to the loss."""
    from accelerate.data_loader import BatchSamplerShard
    from torch.utils.data import BatchSampler

    order = list(range(21))
    batches = BatchSampler(order, batch_size=4, drop_last=False)
    shards = [list(BatchSamplerShard(batches, 2, rank, even_batches=True)) for rank in (0, 1)]
    last = [row for shard in shards for row in shard[-1]]
    assert sorted(last) == sorted([*range(16, 21), 0, 1, 2])

    mine = [
        micro_batches(
            order[16:], np.ones(21), global_batch=8, micro_batch=4, rank=rank, world_size=2
        )
        for rank in (0, 1)
    ]
    rows = sorted(row for share in mine for micro in share for row in micro)
    assert rows == [FILLER] * 3 + order[16:]
    assert number_of_steps(21, 8, 1, None) == len(shards[0]) == 3


# --- what is trained, and at which rate -------------------------------------------------------


def test_lora_targets(llava: nn.Module) -> None:
    pattern = re.compile(target_modules(llava))
    matched = {name for name, _ in llava.named_modules() if pattern.fullmatch(name)}
    assert sorted({name.rpartition(".")[2] for name in matched}) == LLAVA["find_all_linear_names"]
    theirs = {ours(n).partition(".lora_A")[0] for n in LLAVA["trained"] if "lora_A" in n}
    assert {f"base_model.model.{name}" for name in matched} == theirs


def test_trained_parameters_and_their_shapes(llava: nn.Module) -> None:
    model = add_lora(llava, RECIPE, base="x", keep_dtype=False)
    trained = {plain(n): list(p.shape) for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {ours(name): shape for name, shape in LLAVA["trained"].items()}


def test_rate_and_decay_of_each_group(llava: nn.Module) -> None:
    model = add_lora(llava, RECIPE, base="x", keep_dtype=False)
    names = {id(p): plain(n) for n, p in model.named_parameters()}
    made = [
        (group["lr"], group["weight_decay"], sorted(names[id(p)] for p in group["params"]))
        for group in parameter_groups(model, RECIPE)
    ]
    theirs = [
        (group["lr"], group["weight_decay"], sorted(ours(n) for n in group["parameters"]))
        for group in LLAVA["groups"]
        if group["parameters"]
    ]
    assert made == theirs


@pytest.mark.parametrize("steps", [7, 40, 133])
def test_optimizer_and_schedule_step_by_step(llava: nn.Module, tmp_path: Path, steps: int) -> None:
    recipe = Recipe(rank=4, alpha=8, zero_stage=0, gradient_checkpointing=False, precision="fp32")
    made = job(tmp_path, recipe=recipe)
    model = add_lora(llava, recipe, base="x", keep_dtype=False)
    trainer = LoraTrainer(made, model, training_arguments(made, False), DataLoader([0]))
    optimizer = trainer.create_optimizer()
    scheduler = trainer.create_scheduler(steps, optimizer)
    assert type(optimizer).__name__ == LLAVA["optimizer"]["class"]
    assert list(optimizer.defaults["betas"]) == LLAVA["optimizer"]["betas"]
    assert optimizer.defaults["eps"] == LLAVA["optimizer"]["eps"]
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(rates, LLAVA["schedules"][str(steps)], rtol=1e-12)


def test_no_gradient_is_clipped() -> None:
    """LLaVA's DeepSpeed files name no clipping, so its ``max_grad_norm`` of 1 reaches nobody."""
    assert LLAVA["optimizer"]["max_grad_norm"] == 1.0
    assert LLAVA["gradient_clipping"] == {"zero2": None, "zero3": None}
    assert load("lora").max_grad_norm == 0.0


def test_lora_yaml_is_finetune_lora_sh() -> None:
    recipe, script = load("lora"), LLAVA["finetune_lora.sh"]
    names = {
        "lora_r": recipe.rank,
        "lora_alpha": recipe.alpha,
        "learning_rate": recipe.lr,
        "mm_projector_lr": recipe.projector_lr,
        "weight_decay": recipe.weight_decay,
        "warmup_ratio": recipe.warmup_ratio,
        "num_train_epochs": recipe.epochs,
        "model_max_length": recipe.max_length,
        "per_device_train_batch_size": recipe.micro_batch,
        "gradient_accumulation_steps": recipe.accumulation(8),
    }
    assert {name: float(script[name]) for name in names} == names
    assert script["lr_scheduler_type"].strip('"') == recipe.schedule
    assert script["group_by_modality_length"] == str(recipe.group_by_modality_length)
    assert script["gradient_checkpointing"] == str(recipe.gradient_checkpointing)
    assert recipe.dropout == LLAVA["saved"]["adapter_config"]["lora_dropout"]


# --- the loss, and what is saved --------------------------------------------------------------


def test_loss_of_a_global_batch_does_not_depend_on_its_split() -> None:
    """LLaVA's, the mean of its micro-batches' means, does: a deviation of ours."""
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 6, 7), torch.full((4, 6), -100)
    for row, answers in enumerate((1, 5, 2, 1)):
        labels[row, -answers:] = row
    count = torch.tensor(int((labels[:, 1:] != -100).sum()))

    def part(rows: slice, items: torch.Tensor) -> torch.Tensor:
        return answer_loss(SimpleNamespace(logits=logits[rows]), labels[rows], items)

    def mean_of_means(size: int) -> torch.Tensor:
        cuts = [slice(at, at + size) for at in range(0, 4, size)]
        means = [part(rows, (labels[rows][:, 1:] != -100).sum()) for rows in cuts]
        return torch.stack(means).mean()

    whole = part(slice(0, 4), count)
    for size in (1, 2):
        split = sum(part(slice(at, at + size), count) for at in range(0, 4, size))
        torch.testing.assert_close(split, whole)
        assert abs(mean_of_means(size) - whole) > 1e-3
    torch.testing.assert_close(mean_of_means(4), whole)


def test_saved_tensors(llava: nn.Module, tmp_path: Path) -> None:
    """LLaVA's two files in one, and no pickle; PEFT's configuration says the same."""
    model = add_lora(llava, RECIPE, base="x", keep_dtype=False)
    save_adapter(model, trainable_state(model), tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    theirs = {**LLAVA["saved"]["adapter_model"], **LLAVA["saved"]["non_lora_trainables"]}
    assert {n: list(t.shape) for n, t in saved.items()} == {ours(n): s for n, s in theirs.items()}
    assert not [p for p in tmp_path.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".pkl")]

    config = json.loads((tmp_path / "adapter_config.json").read_text())
    expected = LLAVA["saved"]["adapter_config"]
    same = ("r", "lora_alpha", "lora_dropout", "bias", "use_rslora", "init_lora_weights")
    assert {name: config[name] for name in same} == {name: expected[name] for name in same}
