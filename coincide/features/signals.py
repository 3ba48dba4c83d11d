"""The catalogue of signals: what each is, how it is stored, and how wide it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from coincide.schema import Signal, UserError

TOKEN_SCORES = ("el2n", "margin", "nll", "answer_tokens")
"""Columns of ``token_scores``: EL2N; mean margin p(y) - max p(not y), COINCIDE's AUM; mean negative
log-likelihood in nats; number of answer tokens. NaN in the first three without answer tokens."""


PROJECTION_SEED = 1234
"""Of the random projection: fixed, so that every run with as many dimensions shares it."""


@dataclass(frozen=True)
class Projection:
    """Random projection to ``dimensions``, split evenly over ``parts``: 2 for each layer."""

    dimensions: int
    seed: int
    parts: int

    @property
    def columns(self) -> int:
        """Columns of each part; what does not divide evenly is left out."""
        return self.dimensions // self.parts


def activations(
    layers: Sequence[int], projection: int | None = None, seed: int = PROJECTION_SEED
) -> Signal:
    """COINCIDE's feature: attention outputs of ``layers`` (0-based), pooled per modality.

    ``projection``: dimensions of a random projection (``coincide.features.projection``).
    """
    projected = (("projection", projection), ("projection_seed", seed)) if projection else ()
    return Signal("activations", (("layers", tuple(layers)), *projected))


HIDDEN_LAST = Signal("hidden_last")
HIDDEN_MEAN = Signal("hidden_mean")
SCORES = Signal("token_scores")
CLIP_IMAGE = Signal("clip_image")
CLIP_TEXTS = ("dialogue", "question", "answer")


def clip_text(text: str) -> Signal:
    """CLIP's embedding of the ``dialogue``, ``question`` or ``answer`` of a conversation."""
    return Signal("clip_text", (("text", text),))


@dataclass(frozen=True)
class Kind:
    """How a signal is stored, what part of the forward pass it needs, and how it is read."""

    dtype: str
    output_side: bool
    """Needs the last layer's output, so no layer can be left out."""
    summary: str
    model: Literal["reference", "clip"] = "reference"
    """Whose pass yields it."""


CATALOGUE = {
    "activations": Kind("float16", False, "attention outputs of the chosen layers"),
    "hidden_last": Kind("float16", True, "last hidden state of the last real token"),
    "hidden_mean": Kind("float16", True, "last hidden state, mean over real tokens"),
    "token_scores": Kind("float32", True, "EL2N, margin, NLL and count of the answer tokens"),
    "clip_image": Kind("float32", True, "CLIP's unit embedding of the image", "clip"),
    "clip_text": Kind("float32", True, "CLIP's unit embedding of the text, 77 tokens", "clip"),
}


def kind(signal: Signal) -> Kind:
    """The catalogue entry of ``signal``, or an error with the choices."""
    if signal.name not in CATALOGUE:
        raise UserError(f"unknown signal {signal.name!r}; the choices are {', '.join(CATALOGUE)}.")
    return CATALOGUE[signal.name]


def layers_of(signal: Signal) -> tuple[int, ...]:
    """The layers an ``activations`` signal asks for; empty for other signals."""
    return tuple(dict(signal.params).get("layers", ()))


def projection_of(signal: Signal) -> Projection | None:
    """The random projection that ``signal`` goes through, if any."""
    params = dict(signal.params)
    if "projection" not in params:
        return None
    parts = 2 * len(layers_of(signal))
    return Projection(params["projection"], params["projection_seed"], parts)


def width(signal: Signal, hidden: int) -> int:
    """Columns of ``signal`` for a language model of width ``hidden``.

    Raises UserError for a projection that has fewer dimensions than parts, or does not shrink them.
    """
    if signal.name == "token_scores":
        return len(TOKEN_SCORES)
    if signal.name != "activations":
        return hidden
    parts, projection = 2 * len(layers_of(signal)), projection_of(signal)
    if projection is None:
        return parts * hidden
    if not 0 < projection.columns < hidden:
        raise UserError(
            f"method.projection={projection.dimensions}: the features have {parts * hidden:,} "
            f"columns in {parts} parts, visual and language of each layer. Expected null, or at "
            f"least {parts} and fewer than {parts * hidden:,} dimensions."
        )
    return parts * projection.columns
