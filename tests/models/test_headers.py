"""Checkpoints that cannot be used are told by their headers, before any work, with the remedy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from coincide.models.headers import broken_files, chat_template, not_finite
from coincide.models.hub import Hub
from coincide.models.load import load_model
from coincide.schema import UserError
from coincide.store import Store
from tests.tiny_chat import FAMILIES, make_tiny_chat
from train.requirements import trainable

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_chat("llava", tmp_path_factory.mktemp("sound"))


def said(folder: Path, template: str = "chat") -> str:
    model = Hub(str(folder), template=template)
    found = [*model.requirements(), *trainable(model)]
    return " ".join(f"{r.found} {r.remedy}" for r in found if not r.met)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_sound_family_passes(tmp_path: Path, family: str) -> None:
    assert said(make_tiny_chat(family, tmp_path)) == ""


def pointer(folder: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 13476925163\n"
    (folder / WEIGHTS).write_text(text)


def half(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def stump(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:300])


def empty(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def pointer_of_the_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n")


def more_tokens(folder: Path) -> None:
    path = folder / "tokenizer.json"
    found = json.loads(path.read_text())
    last = max(found["model"]["vocab"].values())
    for number in range(1, 4):
        found["model"]["vocab"][f"new{number}"] = last + number
    path.write_text(json.dumps(found))


def no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def no_image_token(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = folder / name
        path.write_text(path.read_text().replace('"<image>"', '"<picture>"'))
    config = json.loads((folder / "config.json").read_text())
    for name in ("image_token_index", "image_token_id"):
        if name in config:
            config[name] = 9999
    (folder / "config.json").write_text(json.dumps(config))


def no_turn_tokens(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% generation %}<|im_start|>{% endgeneration %}")


def other_projector(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    renamed = {n.replace("multi_modal_projector", "mm_bridge"): t for n, t in state.items()}
    save_file(renamed, folder / WEIGHTS, {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (pointer, "model.safetensors is a Git LFS pointer"),
        (half, "its header says"),
        (stump, "has no whole safetensors header"),
        (empty, "model.safetensors is empty"),
        (pointer_of_the_tokenizer, "tokenizer.json is a Git LFS pointer"),
        (more_tokens, "'new1'"),
        (no_template, "target.template=vicuna_v1"),
        (no_image_token, "puts images at token 9999"),
        (no_turn_tokens, "<|im_start|>"),
        (other_projector, "0 projectors (none)"),
    ],
)
def test_each_fault_is_named(
    sound: Path, tmp_path: Path, spoil: Callable[[Path], None], expected: str
) -> None:
    folder = shutil.copytree(sound, tmp_path / "model")
    assert said(folder) == ""
    spoil(folder)
    assert expected in said(folder)


def test_the_template_that_is_named_works_and_is_named_only_there(
    sound: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(sound, tmp_path / "model")
    no_template(folder)
    assert chat_template(folder) == ""
    assert said(folder, "vicuna_v1") == ""
    assert "no token of its tokenizer" in said(folder, "phi")
    other = make_tiny_chat("qwen2_5_vl", tmp_path / "other")
    no_template(other)
    assert "no chat template" in said(other)
    assert "vicuna_v1" not in said(other)


def test_whole_files_are_not_called_broken(sound: Path) -> None:
    assert broken_files(sorted(sound.iterdir())) == []


def test_a_weight_that_is_not_finite_names_the_checkpoint(sound: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sound, tmp_path / "model")
    state = load_file(folder / WEIGHTS)
    name = next(n for n in state if "layers.1.mlp" in n)
    state[name][0, 0] = float("nan")
    save_file(state, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(UserError, match=rf"checkpoint .*model holds NaN.* \({name}\)"):
        Store(tmp_path / "store").ensure(Hub(str(folder)).step())
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        file = tmp_path / "x.safetensors"
        bad = torch.tensor([1.0, float("-inf")], dtype=dtype)
        save_file({"sound": torch.ones(3, dtype=dtype), "bad": bad}, file)
        assert not_finite(file) == ["bad"]
    with pytest.raises(UserError, match=r"checkpoint .*model holds NaN.* 1 of its weights"):
        load_model(folder, torch.float32, "cpu")


@pytest.mark.parametrize("spoil", [half, stump])
def test_a_cut_file_that_was_copied_before_is_an_error_in_words(
    sound: Path, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    folder = shutil.copytree(sound, tmp_path / "model")
    spoil(folder)
    with pytest.raises(UserError, match="does not load"):
        load_model(folder, torch.float32, "cpu")
