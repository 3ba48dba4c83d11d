"""The catalogue of signals: what each is, its width, and how it is read off one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coincide.schema import Signal, UserError

if TYPE_CHECKING:
    import torch

    from coincide.features.capture import Pass

TOKEN_SCORES = ("el2n", "margin", "nll", "answer_tokens")
"""Columns of ``token_scores``: EL2N; mean margin p(y) - max p(not y), COINCIDE's AUM; mean negative
log-likelihood in nats; number of answer tokens. NaN in the first three without answer tokens."""


def activations(layers: Sequence[int]) -> Signal:
    """COINCIDE's feature: attention outputs of ``layers`` (0-based), pooled per modality."""
    return Signal("activations", (("layers", tuple(layers)),))


HIDDEN_LAST = Signal("hidden_last")
HIDDEN_MEAN = Signal("hidden_mean")
SCORES = Signal("token_scores")


@dataclass(frozen=True)
class Kind:
    """How a signal is stored, what part of the forward pass it needs, and how it is read."""

    dtype: str
    output_side: bool
    """Needs the last layer's output, so no layer can be left out."""
    summary: str


CATALOGUE = {
    "activations": Kind("float16", False, "attention outputs of the chosen layers"),
    "hidden_last": Kind("float16", True, "last hidden state of the last real token"),
    "hidden_mean": Kind("float16", True, "last hidden state, mean over real tokens"),
    "token_scores": Kind("float32", True, "EL2N, margin, NLL and count of the answer tokens"),
}


def kind(signal: Signal) -> Kind:
    """The catalogue entry of ``signal``, or an error with the choices."""
    if signal.name not in CATALOGUE:
        raise UserError(f"unknown signal {signal.name!r}; the choices are {', '.join(CATALOGUE)}.")
    return CATALOGUE[signal.name]


def layers_of(signal: Signal) -> tuple[int, ...]:
    """The layers an ``activations`` signal asks for; empty for other signals."""
    return tuple(dict(signal.params).get("layers", ()))


def width(signal: Signal, hidden: int) -> int:
    """Columns of ``signal`` for a language model of width ``hidden``."""
    if signal.name == "token_scores":
        return len(TOKEN_SCORES)
    return 2 * len(layers_of(signal)) * hidden if signal.name == "activations" else hidden


def read(signal: Signal, run: Pass) -> torch.Tensor:
    """``signal`` for each row of one batch, float64 [B, D], from what the pass captured."""
    readers = {
        "activations": _activations,
        "hidden_last": _hidden_last,
        "hidden_mean": _hidden_mean,
        "token_scores": _token_scores,
    }
    return readers[signal.name](signal, run)


def _activations(signal: Signal, run: Pass) -> torch.Tensor:
    """Paper, section 3.1: per layer [visual | language], tanh of the mean, unit norm each.

    Columns are per layer ``[visual H | language H]``, divided by sqrt(2 L). A half without a
    token is zero, and the row is rescaled to unit norm.
    """
    import torch

    parts = []
    for layer in layers_of(signal):
        for mean in run.attention[layer]:
            value = torch.tanh(mean)
            norm = value.norm(dim=1, keepdim=True)
            parts.append(torch.where(norm > 0, value / norm.clamp_min(1e-30), 0.0))
    joined = torch.cat(parts, dim=1)
    return joined / joined.norm(dim=1, keepdim=True).clamp_min(1e-30)


def _hidden_last(signal: Signal, run: Pass) -> torch.Tensor:
    """State of the last real token; the released code takes position -1 of a padded batch."""
    import torch

    last = run.attention_mask.sum(dim=1) - 1
    return run.hidden[torch.arange(len(last), device=last.device), last].double()


def _hidden_mean(signal: Signal, run: Pass) -> torch.Tensor:
    """Mean over real tokens, image tokens included; padding never counts."""
    mask = run.attention_mask.unsqueeze(-1)
    return (run.hidden.double() * mask).sum(dim=1) / mask.sum(dim=1)


def _token_scores(signal: Signal, run: Pass) -> torch.Tensor:
    import torch

    from coincide.ops.scores import aum, el2n, perplexity

    logits, labels = run.answer_logits()
    columns = [el2n(logits, labels), aum(logits, labels), perplexity(logits, labels)]
    count = (run.labels[:, 1:] != -100).sum(dim=1)
    return torch.stack([*columns, count], dim=1).double()
