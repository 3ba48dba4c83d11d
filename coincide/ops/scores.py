"""Scores of an example computed from the logits of its answer tokens.

All functions take ``logits`` [B, T, V] and ``labels`` [B, T] (not shifted; ``ignore_index`` on all
tokens that are not part of an answer), apply the causal shift themselves (token t is predicted at
position t - 1), average over the answer tokens of each row, and return float32 [B]. A row without
answer tokens gives NaN.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

COLUMNS = 16384
"""Of the vocabulary, held in float64 at once."""


def el2n(logits: torch.Tensor, labels: torch.Tensor, ignore_index: int = -100) -> torch.Tensor:
    """Mean ‖p_t - onehot(y_t)‖₂ in [0, √2] (Paul et al. 2021, averaged over answer tokens)."""
    rows, token_logits, targets = _answer_tokens(logits, labels, ignore_index)
    error = token_logits.softmax(-1)
    error.scatter_add_(1, targets[:, None], error.new_full((len(targets), 1), -1.0))
    return _mean_by_row(error.norm(dim=-1), rows, len(labels))


def aum(logits: torch.Tensor, labels: torch.Tensor, ignore_index: int = -100) -> torch.Tensor:
    """Mean margin ``p_t(y_t) - max_{v != y_t} p_t(v)`` in [-1, 1] (COINCIDE's AUM for D2)."""
    rows, token_logits, targets = _answer_tokens(logits, labels, ignore_index)
    probability = token_logits.softmax(-1)
    right = probability.gather(1, targets[:, None])
    other = probability.scatter_(1, targets[:, None], -1.0).amax(-1)
    return _mean_by_row(right[:, 0] - other, rows, len(labels))


def perplexity(
    logits: torch.Tensor, labels: torch.Tensor, ignore_index: int = -100
) -> torch.Tensor:
    """Mean negative log-likelihood in nats: the logarithm of perplexity.

    It ranks examples as perplexity does and cannot overflow.
    """
    rows, token_logits, targets = _answer_tokens(logits, labels, ignore_index)
    return _mean_by_row(F.cross_entropy(token_logits, targets, reduction="none"), rows, len(labels))


def gradient_norm(
    hidden: torch.Tensor,
    logits: torch.Tensor,
    labels: torch.Tensor,
    ignore_index: int = -100,
) -> torch.Tensor:
    """‖∂l/∂W‖ of l, the mean negative log-likelihood, by the head's weights W (GraNd of the last
    layer). ``hidden`` [B, T, H] are the states from which W gives ``logits``.

    ∂l/∂W = 1/n Σ_t (p_t - onehot(y_t)) h_tᵀ is never made: its squared norm is 1/n² times the sum
    over pairs of tokens of (error_s · error_t)(h_s · h_t), in float64, one row at a time.
    """
    wanted = labels[:, 1:] != ignore_index
    norms = [
        _pairs(states[chosen], found[chosen], target[chosen])
        for states, found, target, chosen in zip(
            hidden[:, :-1], logits[:, :-1], labels[:, 1:], wanted, strict=True
        )
    ]
    return torch.stack(norms).float()


def _pairs(hidden: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The norm for one row: ``hidden`` [n, H], ``logits`` [n, V], ``targets`` [n]; NaN for none."""
    n = len(targets)
    if not n:
        return torch.full((), torch.nan, dtype=torch.float64, device=hidden.device)
    level = torch.logsumexp(logits.float(), dim=1, keepdim=True).double()
    errors = torch.zeros(n, n, dtype=torch.float64, device=hidden.device)
    for part in logits.split(COLUMNS, dim=1):
        probability = torch.exp(part.double() - level)
        errors += probability @ probability.T
    crossed = torch.exp(logits[:, targets].double() - level)  # p_s(y_t)
    errors += (targets[:, None] == targets).double() - crossed - crossed.T
    states = hidden.double()
    return (errors * (states @ states.T)).sum().clamp_min(0).sqrt() / n


def _answer_tokens(
    logits: torch.Tensor, labels: torch.Tensor, ignore_index: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Row [n], float32 logits [n, V] and target [n] of every answer token, row by row."""
    if logits.ndim != 3 or logits.shape[:2] != labels.shape:
        raise ValueError(
            f"got logits {tuple(logits.shape)} and labels {tuple(labels.shape)}; "
            "expected [B, T, V] and [B, T]"
        )
    rows, positions = torch.nonzero(labels[:, 1:] != ignore_index, as_tuple=True)
    return rows, logits[rows, positions].float(), labels[rows, positions + 1]


def _mean_by_row(values: torch.Tensor, rows: torch.Tensor, batch: int) -> torch.Tensor:
    """Mean of ``values`` by row in float64, token after token: independent of the batch."""
    total = torch.zeros(batch, dtype=torch.float64, device=values.device)
    count = torch.bincount(rows, minlength=batch)
    return (total.index_add_(0, rows, values.double()) / count).float()


def spectrum(states: torch.Tensor) -> torch.Tensor:
    """Entropy in nats, and the largest, of the singular values of ``states`` [T, H] as shares of
    their sum: float64 [2].

    From the eigenvalues of the smaller of the two Gram matrices, which are their squares.
    """
    x = states.double()
    gram = x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    share = values / values.sum().clamp_min(1e-300)
    return torch.stack([torch.special.entr(share).sum(), share.max()])
