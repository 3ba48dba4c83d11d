"""Questions about one picture share what they begin with, and get the answers they get alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from coincide.models.encode import Encoded, collate, model_inputs
from coincide.models.template import TEMPLATES
from coincide.schema import Turn, UserError
from eval.decoding import Decoding
from eval.engine.shared import CannotShare, SharedPrefixes
from eval.model import LmmsEvalModel
from tests.eval.decoders import KINDS
from tests.eval.decoders import prompts as prompts_of
from tests.tiny_chat import FAMILIES, make_tiny_chat

RANDOM = np.random.default_rng(3)
PICTURES = [
    Image.fromarray(RANDOM.integers(0, 255, (*size, 3), dtype=np.uint8))
    for size in ((40, 30), (60, 64), (32, 32))
]
ASKED = [
    (text, shown)
    for shown in ((0,), (1,), (2,), (0, 1), ())
    for text in ("what colour?", "how many squares are there in all of this?", "hello", "is it so?")
] + [("what is seen here, then?", (1,)), ("same?", (2, 0))]
"""Questions, and the numbers of the pictures they show."""


def prompts(model: LmmsEvalModel) -> list[Encoded]:
    return [
        model.encode(
            [Turn("human", "<image>" * len(shown) + text)], [PICTURES[i] for i in shown], {}
        )
        for text, shown in ASKED
    ]


def make(folder: Path, *, tokens: int | None, dtype: str = "float64") -> LmmsEvalModel:
    return LmmsEvalModel(
        folder, None, template=TEMPLATES["chat"], batch_size=1, batch_tokens=tokens, dtype=dtype,
        device="cpu",
    )  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_each_prompt_alone(tmp_path: Path, family: str) -> None:
    folder = make_tiny_chat(family, tmp_path)
    decoding = Decoding(6, 1, ())
    plain = make(folder, tokens=None)
    expected = plain.answers(prompts(plain), decoding)
    assert len(set(expected)) > 1, "the answers should differ"
    for tokens in (100_000, 700, 1):
        shared = make(folder, tokens=tokens)
        assert shared.answers(prompts(shared), decoding) == expected
        assert shared.notes == [] and shared.counts is not None
        assert shared.counts.prompt_tokens == sum(len(p.input_ids) for p in prompts(plain))
        if tokens > 1:
            assert shared.shared is not None and shared.shared.once
            assert shared.counts.computed_tokens < 0.9 * shared.counts.prompt_tokens


class Words:
    """A tokenizer whose text is its ids."""

    @staticmethod
    def decode(ids: Sequence[int], **_: Any) -> str:
        return " ".join(map(str, ids))


def engine(network: Any, budget: int = 100_000) -> SharedPrefixes:
    return SharedPrefixes(network, Words(), frozenset([2]), 0, budget)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "both ways"])
def test_decoders_that_keep_other_states_answer_as_alone(kind: str) -> None:
    torch.manual_seed(0)
    network = KINDS[kind][0]().double().eval()
    asked = prompts_of(kind, [(3, 9, 3, 6), (5, 5, 5), (4,)])
    decoding = Decoding(8, 1, ())
    expected = []
    for prompt in asked:
        inputs = model_inputs(collate([prompt], 0))
        del inputs["labels"]
        with torch.no_grad():
            ids = network.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=2)
        expected.append(Words.decode(ids[0, len(prompt.input_ids) :].tolist()))
    assert len(set(expected)) > 3, "the answers should differ"
    for budget in (100_000, 60):
        assert engine(network, budget).answers(asked, decoding) == expected


def test_a_model_that_sees_what_follows_is_found_out() -> None:
    torch.manual_seed(0)
    network = KINDS["both ways"][0]().double().eval()
    with pytest.raises(CannotShare, match="standard deviations from those of the prompt alone"):
        engine(network).answers(prompts_of("both ways", [(3, 9)]), Decoding(4, 1, ()))


def test_a_model_that_cannot_share_is_asked_as_before_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_tiny_chat("llava", tmp_path)
    decoding = Decoding(6, 1, ())
    plain, shared = make(folder, tokens=None), make(folder, tokens=1000)
    expected = plain.answers(prompts(plain), decoding)
    monkeypatch.setattr(SharedPrefixes, "scored_answers", _refuses)
    assert shared.answers(prompts(shared), decoding) == expected
    assert shared.counts is None
    assert shared.notes == [
        "no prefix is shared: logits differ; answered as with eval.engine=plain"
    ]


def _refuses(*_: Any) -> list[str]:
    raise CannotShare("logits differ")


def test_when_memory_runs_out_fewer_tokens_run_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(make_tiny_chat("llava", tmp_path), tokens=100_000)
    decoding, asked = Decoding(6, 1, ()), prompts(model)
    expected = model.answers(asked, decoding)
    assert model.shared is not None
    run = SharedPrefixes._run

    def small(self: SharedPrefixes, rows: Any, given: Any, batch: Any, how: Decoding) -> Any:
        if len(batch.places) > 5:
            raise torch.OutOfMemoryError("no memory")
        return run(self, rows, given, batch, how)

    monkeypatch.setattr(SharedPrefixes, "_run", small)
    assert model.answers(asked, decoding) == expected
    assert model.shared.budget < 1000 and "(eval.batch_tokens)" in model.notes[0]
    monkeypatch.setattr(SharedPrefixes, "_run", _no_memory)
    with pytest.raises(UserError, match="does not fit into the memory of cpu"):
        model.answers(asked, decoding)


def _no_memory(*_: Any) -> list[str]:
    raise torch.OutOfMemoryError("no memory")
