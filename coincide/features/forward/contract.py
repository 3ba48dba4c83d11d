"""The interface between signals and the code that runs a model: where a signal looks, how it is
read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np

from coincide.schema import Example, Signal, UserError

if TYPE_CHECKING:
    import torch

    from coincide.features.forward.packed import Packed

RowVariant = Literal["whole", "blind", "masked", "unasked"]
VARIANTS: tuple[RowVariant, ...] = ("whole", "blind", "masked", "unasked")
"""What the model reads of a row: all of it; its text without the images; the same with a gap of one
position for each image; its images and answers without the questions
(``coincide.features.forward.variants``). In the order in which they run."""
BLIND: tuple[RowVariant, ...] = ("blind", "masked")
"""Variants without images; for a row that has none they are the whole row."""


@dataclass(frozen=True)
class Tap:
    """A place in the decoder, and how the states that pass there are reduced.

    Signals with an equal tap share it. Therefore ``reduce`` should be a module-level function, not
    a lambda.
    """

    layer: int
    """Decoder block, 0-based."""
    place: Literal["attention", "block", "neurons", "weights"]
    """Output of the block's attention (before the residual sum), or of the whole block; the neurons
    of its feed-forward part, which are the input of its last projection; or its attention weights
    (``coincide.features.forward.attention.Weights``)."""
    reduce: Callable[[Any, Mapping[str, torch.Tensor]], torch.Tensor]
    """Takes states [B, T, H], or the weights, and the collated batch (``image_mask``,
    ``text_mask``, ``attention_mask``, ``labels`` [B, T], ...); returns what is kept of them,
    [B, ...]."""


@dataclass
class Captured:
    """What the forward pass of one batch gives to signals. B rows, T tokens, H hidden width."""

    tapped: Mapping[Tap, torch.Tensor]
    """The result of each tap's ``reduce``."""
    attention_mask: torch.Tensor
    """int64 [B, T], 1 on real tokens, 0 on padding."""
    image_mask: torch.Tensor
    """bool [B, T]: positions that image features take."""
    labels: torch.Tensor
    """int64 [B, T], -100 on all tokens that are not part of an answer, not shifted."""
    last: torch.Tensor
    """Output of the last layer that ran, after the final norm, [B, T, H]; signals use
    ``hidden``."""
    head: Callable[[torch.Tensor], torch.Tensor]
    """Logits of states as the model itself makes them (``coincide.models.head.OwnLogits``)."""
    cache: Any = None
    """Keys and values of the run, if asked for: a transformers ``Cache``."""
    packed: Packed | None = None
    """The sequences in which the rows ran, if these held several."""
    whole_depth: bool = True
    """Whether all layers ran: those that no signal reads do not."""
    _answers: tuple[torch.Tensor, torch.Tensor] | None = field(default=None, init=False)

    def cache_rows(self, rows: Sequence[int]) -> list[int]:
        """The row of ``cache`` that holds each of ``rows``."""
        return list(rows) if self.packed is None else self.packed.sequences[list(rows)].tolist()

    @property
    def hidden(self) -> torch.Tensor:
        """Output of the last layer after the final norm, [B, T, H].

        Raises UserError where no signal of the pass said that it reads it.
        """
        if not self.whole_depth:
            raise UserError(
                "a signal reads the output of the model's last layer (captured.hidden, "
                "answer_logits or answer_states), and none says so, so that the layers behind the "
                "last tap did not run. Set last_layer = True in its class."
            )
        return self.last

    def answer_logits(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [B, A+1, V] and labels [B, A+1] of the answer tokens alone.

        The head runs once, on the positions that predict an answer token, not on the whole
        sequence. The causal shift is kept: ``labels[:, j + 1]`` is what ``logits[:, j]`` predicts.
        """
        if self._answers is None:
            self._answers = self._predict()
        return self._answers

    def _predict(self) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        order = self._answer_places()
        labels = torch.gather(self.labels[:, 1:], 1, order)
        blank = labels.new_full((len(labels), 1), -100)
        logits = self.head(self._states_at(order))
        padded = torch.cat([logits, logits.new_zeros(len(logits), 1, logits.shape[-1])], dim=1)
        return padded, torch.cat([blank, labels], dim=1)

    def answer_states(self) -> torch.Tensor:
        """The states [B, A+1, H] that :meth:`answer_logits` is the head of; the last is zero."""
        import torch

        states = self._states_at(self._answer_places())
        return torch.cat([states, states.new_zeros(len(states), 1, states.shape[-1])], dim=1)

    def _answer_places(self) -> torch.Tensor:
        """Positions int64 [B, A] that predict an answer token, first; behind them any others."""
        import torch

        wanted = self.labels[:, 1:] != -100
        width = max(1, int(wanted.sum(dim=1).max()))
        return torch.argsort(wanted.logical_not().to(torch.int8), dim=1, stable=True)[:, :width]

    def _states_at(self, places: torch.Tensor) -> torch.Tensor:
        import torch

        wide = places.unsqueeze(-1).expand(-1, -1, self.hidden.shape[-1])
        return torch.gather(self.hidden, 1, wide)


class ForwardSignal(Signal, ABC):
    """A signal computed from one forward pass of an image-text model."""

    last_layer: ClassVar[bool] = False
    """Whether it reads the output of the last layer. While no signal of a variant does, the blocks
    after the last tap are not computed."""
    variant: ClassVar[RowVariant] = "whole"
    """What the model reads for it. Each variant that a signal of the pass asks for runs once."""
    answers_only: ClassVar[bool] = False
    """For a variant other than the whole row: whether only answer tokens are read. The tokens
    before them may then come from another variant's cache, and ``hidden`` starts after these."""

    @classmethod
    def text_tokens(cls, signals: Sequence[Signal], text: float) -> float:
        """The text once, and once more for each variant of the rows besides the whole ones."""
        variants = {s.variant for s in signals if isinstance(s, ForwardSignal)}
        return text * (1 + len(variants - {"whole"}))

    def taps(self) -> Sequence[Tap]:
        """The places in the decoder that it reads, besides the output of the last layer."""
        return ()

    @abstractmethod
    def read(self, captured: Captured) -> torch.Tensor:
        """The signal of one batch, float64 [B, D]."""


class Embedder(Protocol):
    """A model that embeds images and texts, such as CLIP.

    Embeddings are float32 rows of unit length.
    """

    @property
    def width(self) -> int:
        """Columns D of an embedding."""
        ...

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings [n, D] of ``texts``; a row of NaN for an empty one."""
        ...

    def images_of(self, examples: Sequence[Example]) -> np.ndarray:
        """Embedding [n, D] of each example's image.

        Of several images, their mean scaled to unit length. A row of NaN for an example without an
        image.
        """
        ...


class EmbeddingSignal(Signal, ABC):
    """A signal that is an embedding of an image or of a text, stored as float32."""

    dtype: ClassVar[str] = "float32"
    nan_allowed: ClassVar[bool] = True

    @abstractmethod
    def embed(self, encoder: Embedder, examples: Sequence[Example]) -> np.ndarray:
        """Embeddings float32 [n, D] of ``examples``.

        A row of NaN for one without an image or text to embed.
        """
