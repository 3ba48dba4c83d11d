"""The feature pass over models of four families: plain transformers' values, in any batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from coincide.config import FeaturePass
from coincide.features.engine.shards import ShardedArray, read_valid
from coincide.features.forward import packed
from coincide.features.forward.capture import attention_of, decoder_layers
from coincide.features.passes.reference import ReferencePass
from coincide.features.signals.activations import Activations
from coincide.features.signals.hidden_last import HiddenLast
from coincide.features.signals.token_scores import TokenScores
from coincide.features.signals.token_scores_blind import TokenScoresBlind
from coincide.features.signals.token_scores_unasked import TokenScoresUnasked
from coincide.models.encode import collate, encode, model_inputs
from coincide.models.load import load_model, load_processor
from coincide.models.template import TEMPLATES
from coincide.schema import Example, Turn, UserError
from coincide.store import Build, Step, Store
from tests.features.conftest import Source, rows
from tests.features.test_workers import files, through
from tests.tiny_chat import FAMILIES, make_tiny_chat

SIGNALS = (
    Activations((0, 2)),
    HiddenLast(),
    TokenScores(),
    TokenScoresBlind(),
    TokenScoresUnasked(),
)


@dataclass(frozen=True)
class Family:
    """A tiny model of a family as a model source."""

    name: str
    template: str = "chat"
    max_length: int = 256

    def step(self) -> Step:
        def build(build: Build) -> None:
            make_tiny_chat(self.name, build.dir)

        return Step("model", self.name, 1, {"family": self.name}, build)


@pytest.mark.parametrize("family", FAMILIES)
def test_values_are_those_of_transformers_in_any_batch(
    tmp_path: Path, source: Source, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where what several rows begin with runs once."""
    sequences, real = [], packed.pack

    def pack(*given: Any) -> Any:
        sequences.append(given)
        return real(*given)

    monkeypatch.setattr(packed, "pack", pack)

    def made(name: str, **options: int) -> list[dict[str, bytes]]:
        over = ReferencePass(
            Family(family), source, "float64", FeaturePass(shard_rows=12, **options)
        )
        artifacts = through(Store(tmp_path / name), over, SIGNALS)
        found[name] = [ShardedArray(a.path)[:] for a in artifacts]
        assert np.flatnonzero(~read_valid(artifacts[0].path)).tolist() == [3]
        return [files(artifact) for artifact in artifacts]

    found: dict[str, list[np.ndarray]] = {}
    one = made("one", batch_size=1)
    assert not sequences
    assert one == made("many", batch_size=7)
    assert bool(sequences) == (family != "qwen2_5_vl"), "it has three positions a token"
    folder = next((tmp_path / "one" / "model").iterdir()) / "model"
    for row in (0, 1, 7, 9, 20):
        expected = alone(folder, source, row)
        np.testing.assert_array_equal(found["one"][0][row], expected[0].astype(np.float16))
        np.testing.assert_array_equal(found["one"][1][row], expected[1].astype(np.float16))
        if row != 9:  # an empty answer
            for values, loss in zip(found["one"][2:], expected[2:], strict=True):
                value = values[row, 2 if values.shape[1] > 1 else 0]
                assert value == pytest.approx(float(loss), rel=1e-6)


def alone(folder: Path, source: Source, row: int) -> tuple[np.ndarray, ...]:
    """Activations, last state, and the losses of a row from plain transformers: whole, with its
    images taken out, and of its answers alone."""
    processor, network = load_processor(folder), load_model(folder, torch.float64, "cpu")
    seen: list[torch.Tensor] = []
    layers = decoder_layers(network)
    for layer in (0, 2):
        layers[layer].self_attn.o_proj.register_forward_hook(lambda m, i, o: seen.append(o[0]))  # type: ignore[union-attr]

    def of(example: Example) -> tuple[Any, Any]:
        encoded = encode(example, source.open(Path()), processor, TEMPLATES["chat"], 256)
        inputs = model_inputs(collate([encoded], 0))
        inputs = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
        seen.clear()
        with torch.no_grad():
            return encoded, network(**inputs, output_hidden_states=True)

    example = rows()[row]
    losses = []
    for turns, images in (without_images(example), without_questions(example)):
        output = of(replace(example, turns=turns, images=images))[1]
        losses.append(np.asarray(float("nan") if output.loss is None else output.loss))
    encoded, output = of(example)
    parts = []
    for states in seen:
        for mask in (encoded.image_mask, encoded.text_mask):
            mean = torch.tanh(states[mask].mean(0)) if mask.any() else torch.zeros(32).double()
            parts.append(mean / mean.norm() if mask.any() else mean)
    joined = torch.cat(parts)
    loss = output.loss if output.loss is not None else torch.tensor(float("nan"))
    last = output.hidden_states[-1][0, -1].numpy()
    return (joined / joined.norm()).numpy(), last, loss.numpy(), *losses


def without_images(example: Example) -> tuple[tuple[Turn, ...], tuple[str, ...]]:
    said = [replace(t, text=t.text.replace("<image>\n", "")) for t in example.turns]
    return tuple(said), ()


def without_questions(example: Example) -> tuple[tuple[Turn, ...], tuple[str, ...]]:
    answer = " ".join(turn.text for turn in example.turns if turn.role == "gpt")
    asked = Turn("human", "<image>" * len(example.images))
    return (asked, Turn("gpt", answer)), example.images


def test_layers_without_attention_are_named() -> None:
    """Hybrid decoders mix blocks of other kinds in."""

    class Block(nn.Module):
        def __init__(self, kind: str) -> None:
            super().__init__()
            setattr(self, kind, nn.Linear(2, 2))
            self.mlp = nn.Linear(2, 2)

    layers = nn.ModuleList([Block("linear_attn"), Block("self_attn"), Block("attention")])
    assert attention_of(layers, 1) is layers[1].self_attn
    assert attention_of(layers, 2) is layers[2].attention
    with pytest.raises(UserError, match=r"Block holds linear_attn, mlp\. .*: \[1, 2\]"):
        attention_of(layers, 0)
    with pytest.raises(UserError, match=r"the decoder of Linear, Linear, has no list of layers"):
        decoder_layers(nn.Linear(2, 2))
