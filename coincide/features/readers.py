"""Signals, read off what one forward pass left behind: one function each."""

from __future__ import annotations

import torch

from coincide.features.capture import Pass
from coincide.features.projection import project
from coincide.features.signals import layers_of, projection_of
from coincide.ops.scores import aum, el2n, perplexity
from coincide.schema import Signal


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
    token is zero, and the row is rescaled to unit norm. A projection takes the place of each half
    and is scaled to unit norm as well.
    """
    projection = projection_of(signal)
    parts = []
    for layer in layers_of(signal):
        for modality, mean in enumerate(run.attention[layer]):
            half = _unit(torch.tanh(mean))
            if projection is not None:
                half = _unit(project(half, projection, layer, modality))
            parts.append(half)
    return _unit(torch.cat(parts, dim=1))


def _unit(rows: torch.Tensor) -> torch.Tensor:
    """``rows`` [B, D] scaled to unit norm; rows of zeros stay."""
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-30)


def _hidden_last(signal: Signal, run: Pass) -> torch.Tensor:
    """State of the last real token; the released code takes position -1 of a padded batch."""
    last = run.attention_mask.sum(dim=1) - 1
    return run.hidden[torch.arange(len(last), device=last.device), last].double()


def _hidden_mean(signal: Signal, run: Pass) -> torch.Tensor:
    """Mean over real tokens, image tokens included; padding never counts."""
    mask = run.attention_mask.unsqueeze(-1)
    return (run.hidden.double() * mask).sum(dim=1) / mask.sum(dim=1)


def _token_scores(signal: Signal, run: Pass) -> torch.Tensor:
    logits, labels = run.answer_logits()
    columns = [el2n(logits, labels), aum(logits, labels), perplexity(logits, labels)]
    count = (run.labels[:, 1:] != -100).sum(dim=1)
    return torch.stack([*columns, count], dim=1).double()
