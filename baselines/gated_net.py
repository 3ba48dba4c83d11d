"""OnceSelect's network: predicts a row's cluster from its image and its question.

    h = g tanh(W_i image) + (1 - g) tanh(W_t text) + 0.1 W_x (image ⊙ text),   W_c h -> clusters
    g = sigmoid(w · [image, text, image ⊙ text])

Runs on a GPU if there is one; half a million weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

HELD_OUT = 5
"""One of so many core rows of each cluster is held out to measure the accuracy."""
CROSSED = 0.1
BLOCK = 65_536
"""Rows whose confidence is computed at once."""


class GatedNet(nn.Module):
    """Takes image and text embeddings side by side [n, 2 D]; returns logits [n, clusters]."""

    def __init__(self, dimensions: int, width: int, clusters: int) -> None:
        super().__init__()
        self.image = nn.Linear(dimensions, width)
        self.text = nn.Linear(dimensions, width)
        self.crossed = nn.Linear(dimensions, width)
        self.gate = nn.Linear(3 * dimensions, 1)
        self.head = nn.Linear(width, clusters)

    def forward(self, joint: torch.Tensor) -> torch.Tensor:
        image, text = joint.chunk(2, dim=1)
        crossed = image * text
        gate = torch.sigmoid(self.gate(torch.cat([image, text, crossed], dim=1)))
        mixed = gate * torch.tanh(self.image(image)) + (1 - gate) * torch.tanh(self.text(text))
        found: torch.Tensor = self.head(mixed + CROSSED * self.crossed(crossed))
        return found


def fit(
    x: np.ndarray,
    cluster: np.ndarray,
    core: np.ndarray,
    *,
    width: int,
    lr: float,
    batch: int,
    accuracy: float,
    epochs: int,
    steps: int,
    seed: int,
) -> tuple[dict[str, np.ndarray], float]:
    """Train the network; returns the weights of the epoch with held-out accuracy nearest
    ``accuracy``.

    Also returns that accuracy; of equal epochs the first. ``x`` [N, 2 D] joint features,
    ``cluster`` int [N], ``core`` int64: indices of the rows to learn, grouped by cluster. At most
    ``epochs`` epochs, but at least ``steps`` steps in total; ends early once the accuracy has been
    passed.
    """
    held = np.zeros(len(core), bool)
    place = np.arange(len(core)) - np.searchsorted(cluster[core], cluster[core])
    held[place % HELD_OUT == HELD_OUT - 1] = True
    learn, tell = core[~held], core[held] if held.any() else core
    device = "cuda" if torch.cuda.is_available() else "cpu"
    targets = torch.from_numpy(cluster.astype(np.int64)).to(device)
    counts = np.bincount(cluster[learn], minlength=int(cluster.max()) + 1)
    weight = torch.tensor(len(learn) / (len(counts) * np.maximum(counts, 1)), dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = GatedNet(x.shape[1] // 2, width, len(counts)).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr)
    dice = np.random.default_rng(seed)
    best = np.inf
    kept: tuple[dict[str, np.ndarray], float] = ({}, 0.0)
    per_epoch = -(-len(learn) // batch)
    for _ in range(max(epochs, -(-steps // per_epoch))):
        for places in np.array_split(learn[dice.permutation(len(learn))], per_epoch):
            loss = F.cross_entropy(
                net(_rows(x, places, device)), targets[places], weight=weight.to(device)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        reached = _accuracy(net, x, cluster, tell, device)
        if abs(reached - accuracy) < best:
            best = abs(reached - accuracy)
            state = {n: v.detach().cpu().numpy().copy() for n, v in net.state_dict().items()}
            kept = (state, reached)
        elif reached > accuracy + best:
            break
    return kept


def confidence(weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The largest softmax of every row of ``x`` [N, 2 D], float32 [N]."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    clusters, width = weights["head.weight"].shape
    net = GatedNet(x.shape[1] // 2, width, clusters).to(device)
    net.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    found = np.empty(len(x), np.float32)
    with torch.inference_mode():
        for start in range(0, len(x), BLOCK):
            places = np.arange(start, min(start + BLOCK, len(x)))
            logits = net(_rows(x, places, device)).double()
            found[places] = logits.softmax(1).amax(1).float().cpu().numpy()
    return found


def _accuracy(
    net: nn.Module, x: np.ndarray, cluster: np.ndarray, places: np.ndarray, device: str
) -> float:
    """Mean over clusters of the share of its rows that are predicted correctly."""
    with torch.inference_mode():
        said = net(_rows(x, places, device)).argmax(1).cpu().numpy()
    right = np.bincount(cluster[places], weights=said == cluster[places])
    asked = np.bincount(cluster[places])
    return float((right[asked > 0] / asked[asked > 0]).mean())


def _rows(x: Any, places: np.ndarray, device: str) -> torch.Tensor:
    return torch.from_numpy(np.asarray(x[places], np.float32)).to(device)
