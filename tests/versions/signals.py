"""What each signal gives on forty rows of the demo that no other case computes, in one pass."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from coincide.features.signals.bridging import Bridging
from coincide.features.signals.grand import GradientNorm
from coincide.features.signals.hidden_mean import HiddenMean
from coincide.features.signals.hidden_weighted import HiddenWeighted
from coincide.features.signals.neurons import Neurons
from coincide.features.signals.picture_embedding import PictureEmbedding
from coincide.features.signals.sentence_embedding import SentenceEmbedding
from coincide.features.signals.token_scores_blind import TokenScoresBlind
from coincide.features.signals.token_scores_masked import TokenScoresMasked
from coincide.features.signals.token_scores_unasked import TokenScoresUnasked
from coincide.features.signals.visual_attended import VisualAttended
from coincide.features.signals.visual_mean import VisualMean
from tests.versions.outputs import demo_source, store

ROWS = 40
SIGNALS: tuple[Any, ...] = (
    Bridging(layers=(1, 3)), GradientNorm(), HiddenMean(), HiddenWeighted(),
    Neurons(layers=(1, 3), stored=8), TokenScoresBlind(), TokenScoresMasked(),
    TokenScoresUnasked(), VisualAttended(layer=1), VisualMean(layer=1),
)  # fmt: skip
CASES = {f"features/{signal.name}": signal for signal in SIGNALS}
"""Name of a case -> its signal."""


@dataclass(frozen=True)
class Rows:
    """The demo's data with every row after the first forty dropped."""

    name: str = "demo"

    def step(self) -> Any:
        return demo_source().step()

    def open(self, artifact: Any) -> Any:
        whole = demo_source().open(artifact)
        return replace(whole, dropped=dict.fromkeys(range(ROWS, len(whole)), "a later row"))


def over(signals: tuple[Any, ...], model: Any) -> dict[Any, Any]:
    """Values and validity of ``signals`` of the forty rows, from one pass of ``model``."""
    from coincide.config import FeaturePass
    from coincide.features.engine.shards import ShardedArray, read_valid
    from coincide.features.extract import extract, signal_step

    there, data = store(), Rows()
    signal_pass = type(signals[0]).make_pass(model, data, FeaturePass(processes=1))
    with contextlib.redirect_stdout(io.StringIO()):
        for step in (data.step(), model.step()):
            there.ensure(step)
        steps = {s: signal_step(s, signal_pass, data=data.step(), base=model.step())
                 for s in signals}  # fmt: skip
        made = extract(there, steps, signal_pass)
    folders = {signal: artifact.path for signal, artifact in zip(steps, made, strict=True)}
    return {s: (np.asarray(ShardedArray(f)[np.arange(ROWS)]), read_valid(f)[:ROWS])
            for s, f in folders.items()}  # fmt: skip


@cache
def _of_the_reference() -> dict[Any, Any]:
    from coincide.models.tiny import Tiny

    return over(SIGNALS, Tiny("tiny_ref", "tiny_ref", "tiny", 512, (1, 3), "float64"))


def reference(signal: Any) -> Callable[[], Any]:
    """The output of a case of a signal of the reference model."""
    return lambda: _of_the_reference()[signal]


def pictures() -> Any:
    """The vision tower's embeddings, from the demo's shipped CLIP."""
    from coincide.models.clip import TinyClip

    return over((PictureEmbedding(),), TinyClip())


def sentences() -> Any:
    """A text encoder's embeddings, from the same CLIP."""
    from coincide.models.clip import TinyClip

    return over((SentenceEmbedding(),), TinyClip())
