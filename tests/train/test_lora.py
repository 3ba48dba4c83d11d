"""What is trained, at which rate, and the loss."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from coincide.features.forward.capture import decoder_of
from coincide.models.load import load_model
from coincide.schema import UserError
from tests.tiny_chat import FAMILIES, make_tiny_chat
from train.lora import add_lora, parameter_groups, projectors_of, target_modules
from train.recipe import Recipe


def test_targets_are_the_linears_of_the_language_model(llava: nn.Module) -> None:
    pattern = re.compile(target_modules(llava))
    matched = {name for name, _ in llava.named_modules() if pattern.fullmatch(name)}
    wanted = {
        name
        for name, module in llava.named_modules()
        if isinstance(module, nn.Linear) and ".language_model." in name
    }
    assert matched == wanted
    assert len(matched) == 2 * 7
    assert not any("lm_head" in n or "vision" in n or "projector" in n for n in matched)
    attention = re.compile(target_modules(llava, "attention"))
    assert {name for name, _ in llava.named_modules() if attention.fullmatch(name)} == {
        name for name in wanted if ".self_attn." in name
    }


def test_a_model_without_language_model_is_refused() -> None:
    with pytest.raises(UserError, match="no linear layer under language_model or text_model"):
        target_modules(nn.Sequential(nn.Linear(2, 2)))
    blind = nn.Module()
    blind.language_model = nn.Sequential(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(UserError, match="linears=attention: Module has no linear layer inside"):
        target_modules(blind, "attention")
    with pytest.raises(UserError, match="expected a projector between"):
        projectors_of(nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize("family", FAMILIES)
def test_decoder_and_projectors_of_other_families(family: str, tmp_path: Path) -> None:
    """Adapters reach the decoder and nothing else, and a step moves them and the projector."""
    folder = make_tiny_chat(family, tmp_path)
    network = load_model(folder, torch.float32, "cpu")
    linears = {
        name for name, part in decoder_of(network).named_modules() if isinstance(part, nn.Linear)
    }
    attention = re.compile(target_modules(network, "attention"))
    inside = {name for name, _ in network.named_modules() if attention.fullmatch(name)}
    assert inside
    assert all("attn" in name for name in inside)
    assert len(inside) < len(linears)
    adapted = add_lora(network, Recipe(rank=2, alpha=4), base=family, keep_dtype=False)
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    loras = {name.partition(".lora_A")[0] for name in trained if "lora_A" in name}
    assert len(loras) == len(linears)
    assert all(any(name.endswith(linear) for linear in linears) for name in loras)
    others = [name for name in trained if "lora_" not in name]
    assert others
    assert all(".modules_to_save." in name for name in others)
    rates = [group["lr"] for group in parameter_groups(adapted, Recipe(rank=2, alpha=4))]
    assert set(rates) == {2e-4, 2e-5}


def test_adapter_and_groups(llava: nn.Module) -> None:
    recipe = Recipe(rank=4, alpha=8, weight_decay=0.1, lr=3e-4, projector_lr=5e-5)
    model = add_lora(llava, recipe, base="target/tiny-0", keep_dtype=False)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in n or "multi_modal_projector.modules_to_save" in n for n in trained)
    assert model.peft_config["default"].base_model_name_or_path == "target/tiny-0"

    groups = parameter_groups(model, recipe)
    rates = [(g["lr"], g["weight_decay"], len(g["params"])) for g in groups]
    assert rates == [(3e-4, 0.1, 2 * 14), (5e-5, 0.1, 2), (5e-5, 0.0, 2)]
    assert {id(p) for g in groups for p in g["params"]} == {
        id(p) for p in model.parameters() if p.requires_grad
    }


def test_loss_is_the_mean_over_the_answer_tokens_of_the_global_batch() -> None:
    from train.trainer import answer_loss

    torch.manual_seed(0)
    logits = torch.randn(3, 5, 7)
    labels = torch.full((3, 5), -100)
    labels[0, 2:], labels[1, 4] = 1, 6
    whole = answer_loss(SimpleNamespace(logits=logits), labels, torch.tensor(4))
    parts = sum(
        answer_loss(SimpleNamespace(logits=logits[i : i + 1]), labels[i : i + 1], torch.tensor(4))
        for i in range(3)
    )
    by_hand = -torch.stack(
        [*logits[0, 1:4].log_softmax(-1)[:, 1], logits[1, 3].log_softmax(-1)[6]]
    ).mean()
    torch.testing.assert_close(whole, by_hand)
    torch.testing.assert_close(parts, whole)


def test_a_batch_without_answers_costs_nothing() -> None:
    from train.trainer import answer_loss

    logits = torch.randn(1, 4, 7, requires_grad=True)
    loss = answer_loss(SimpleNamespace(logits=logits), torch.full((1, 4), -100), torch.tensor(0))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert logits.grad.abs().sum() == 0
