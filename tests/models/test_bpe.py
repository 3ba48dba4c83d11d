"""Token ids equal those of the tokenizers that the checkpoints were trained with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coincide.models.bpe import arcade_tokenizer, llama_tokenizer, merges
from tests.mini.checkpoints import make_vicuna, tiktoken_model

ASSETS = Path(__file__).parents[1] / "assets"
LLAMA = json.loads((ASSETS / "vicuna" / "tokens.json").read_text(encoding="utf-8"))
ARCADE = json.loads((ASSETS / "tinyllava" / "oracle.json").read_text(encoding="utf-8"))["tokens"]
AFTER_END = "</s> USER: z"
"""A space after a literal special token gets one space more from us than from the original."""


def made(legacy: bool, folder: Path) -> Any:
    return llama_tokenizer(make_vicuna(folder, layers=1, legacy=legacy))


@pytest.mark.parametrize("legacy", [True, False])
def test_llama(legacy: bool, tmp_path: Path) -> None:
    tokenizer = made(legacy, tmp_path)
    for case in LLAMA["legacy" if legacy else "new"]:
        if legacy or case["text"] != AFTER_END:
            assert tokenizer(case["text"]).input_ids == case["ids"], case["text"]


def test_the_two_differ_after_a_special_token(tmp_path: Path) -> None:
    text = "USER: x</s>USER: y"
    ids = [made(legacy, tmp_path / str(legacy))(text).input_ids for legacy in (True, False)]
    assert ids[0] != ids[1]


def test_llama_reads_its_ids_back(tmp_path: Path) -> None:
    tokenizer = made(False, tmp_path)
    text = "A chat between a curious user and 你好, 12."
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_image_and_pad_come_after_the_pieces(tmp_path: Path) -> None:
    tokenizer = made(False, tmp_path)
    assert tokenizer.convert_tokens_to_ids(["<image>", "<pad>"]) == [700, 701]
    assert tokenizer.pad_token == "<pad>" and len(tokenizer) == 702


@pytest.mark.parametrize("case", ARCADE, ids=lambda case: ascii(case["text"]))
def test_arcade(case: dict[str, Any], arcade: Any) -> None:
    assert arcade(case["text"]).input_ids == case["ids"]


def test_arcade_has_no_start_token(arcade: Any) -> None:
    assert arcade.bos_token is None
    assert arcade.convert_tokens_to_ids("<image>") == len(arcade) - 1


def test_arcade_reads_its_ids_back(arcade: Any) -> None:
    text = "polite  answers\n 你好 123"
    assert arcade.decode(arcade(text).input_ids) == text


@pytest.mark.parametrize("legacy", [True, False])
def test_saved_and_loaded_it_is_the_same(legacy: bool, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = made(legacy, tmp_path / "vicuna")
    tokenizer.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    for case in LLAMA["new"]:
        assert again(case["text"]).input_ids == tokenizer(case["text"]).input_ids


def test_merges_are_ranked_by_the_piece_they_make() -> None:
    pieces = {"a": 0, "b": 1, "c": 2, "bc": 3, "abc": 4, "ab": 5}
    assert merges(pieces) == [("b", "c"), ("a", "bc"), ("ab", "c"), ("a", "b")]


@pytest.fixture(scope="module")
def arcade(tmp_path_factory: pytest.TempPathFactory) -> Any:
    file = tmp_path_factory.mktemp("arcade") / "arcade100k.tiktoken"
    tiktoken_model(file)
    return arcade_tokenizer(file)
