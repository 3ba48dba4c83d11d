"""Logits of single states as the model itself makes them: its scaling and soft caps included.

Some families change what their output layer gives: Granite divides it, Cohere multiplies it, Gemma
caps it. Instead of knowing each, the model's own ``forward`` runs with the given states in the
place of what its decoder would give.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers.utils import ModelOutput

from coincide.models.decoder import inner
from coincide.schema import UserError

PROBE = 30.0
"""Largest value that the output layer gives for the states of a probe: soft caps show there."""
CLOSE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""How far logits may be from a multiple of the output layer's, relative to the largest; in half
precision ``HALF``."""
HALF = 0.02
_heads: WeakKeyDictionary[Any, OwnLogits] = WeakKeyDictionary()


def own_logits(model: Any) -> OwnLogits:
    """What ``model`` makes of states; the same object for the same model."""
    if model not in _heads:
        _heads[model] = OwnLogits(model)
    return _heads[model]


@dataclass(frozen=True)
class _States(ModelOutput):
    """The states in the place of a decoder's output; all else that it might have is None."""

    last_hidden_state: Any = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


@dataclass
class OwnLogits:
    """``own(states)``: logits [B, T, V] of states [B, T, H] after the final norm."""

    model: Any = field(repr=False)

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """Raises UserError for a model whose forward cannot be run on states alone."""
        if self.scale == 1.0:
            plain: torch.Tensor = self.layer(states)
            return plain
        return self._own(states)

    @property
    def layer(self) -> Any:
        """The output layer. Raises UserError where the model names none."""
        found = self.model.get_output_embeddings()
        if found is None:
            raise UserError(
                f"{type(self.model).__name__} names no output layer, so the scores of answer "
                "tokens cannot be read. Choose another reference model (docs/MODELS.md)."
            )
        return found

    @cached_property
    def scale(self) -> float | None:
        """What the model multiplies the output layer's values with; None: it does something else
        to them.
        """
        weight = self.layer.weight
        generator = torch.Generator().manual_seed(0)
        states = torch.randn(1, 4, weight.shape[1], generator=generator, dtype=torch.float64)
        states = states.to(weight.device, weight.dtype)
        states = states * (PROBE / self.layer(states).abs().max())
        plain, own = self.layer(states), self._own(states)
        if torch.equal(plain, own):
            return 1.0
        first, second = plain.double(), own.double()
        factor = float((first * second).sum() / (first * first).sum())
        allowed = CLOSE.get(weight.dtype, HALF) * float(second.abs().max())
        return factor if float((factor * first - second).abs().max()) <= allowed else None

    def _own(self, states: torch.Tensor) -> torch.Tensor:
        with _giving(inner(self.model), _States(last_hidden_state=states)):
            try:
                output = self.model(inputs_embeds=states, use_cache=False)
                logits: torch.Tensor = output.logits
            except (TypeError, AttributeError, ValueError, RuntimeError) as error:
                raise UserError(
                    f"the logits of {type(self.model).__name__} cannot be read as the model itself "
                    f"makes them ({' '.join(str(error).split())[:120]}). Choose another reference "
                    "model (docs/MODELS.md), or a method that reads no scores of answer tokens."
                ) from error
        return logits


@contextmanager
def _giving(module: Any, output: Any) -> Iterator[None]:
    """In this context ``module`` gives ``output``, whatever it is asked."""
    module.forward = lambda *args, **options: output
    try:
        yield
    finally:
        del module.forward
