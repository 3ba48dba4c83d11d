"""Adapted linears that tell what every row's gradient is made of, in one backward pass.

A layer with LoRA gives y = W x + s B A x at every token. With g the gradient of a row's loss by y,

    dA = sum over the row's tokens of (s B^T g) x^T      [r, in]
    dB = s sum of g (A x)^T                              [out, r]

A batch's loss is the sum of its rows' losses, and a row's tokens see no other row: so the g of a
batch are those of its rows, and one backward pass gives all of them. Nothing is hooked: the layer
is an autograd function of its own. It keeps x for backward, as a layer with a trained weight would,
and there hands over both factors of both products. So it also works where activations are
recomputed (non-reentrant checkpointing), where a layer is called several times, and with any number
of adapters over one base, which is not changed. No weight has a gradient, W least of all, and the
backward pass ends at the first adapted layers: vision tower and embeddings are not part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from coincide.models.tuned import AdapterWeights, check_known, read_adapter
from coincide.ops.sketch import MatrixShape
from coincide.schema import UserError


class RowsNotApart(Exception):
    """A layer got the tokens of several rows in one heap: one row at a time, then."""


@dataclass(frozen=True)
class RowFactors:
    """What a layer hands over in backward: matrices [B, T, *] whose products, summed over tokens,
    are the rows' gradients by A and B.
    """

    of_a: tuple[torch.Tensor, torch.Tensor]
    """s B^T g [B, T, r] and x [B, T, in]."""
    of_b: tuple[torch.Tensor, torch.Tensor]
    """A x [B, T, r] and s g [B, T, out]."""


Receive = Callable[[str, RowFactors], None]
"""Takes a module's name and its factors."""


@dataclass
class _Layer:
    """An adapted linear under the adapter that is in use."""

    name: str
    linear: nn.Linear
    a: torch.Tensor
    b: torch.Tensor
    """s B."""
    scale: float
    calls: int = 0
    """In the forward pass."""


class _AdaptedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any, anchor: Any, layer: _Layer, model: AdaptedModel) -> Any:
        a, b = _like(layer.a, x), _like(layer.b, x)
        low = nn.functional.linear(x, a)
        ctx.save_for_backward(x, low)
        ctx.layer, ctx.model = layer, model
        y = nn.functional.linear(x, layer.linear.weight, layer.linear.bias)
        y.view(-1, y.shape[-1]).addmm_(low.view(-1, low.shape[-1]), b.T)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (g,) = grads
        x, low = ctx.saved_tensors
        layer = ctx.layer
        a, b = _like(layer.a, x), _like(layer.b, x)
        flat = g.reshape(-1, g.shape[-1])
        lower = flat.mm(b)
        ctx.model.hand_over(layer, x, low, g, lower.view(low.shape))
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        return flat.mm(layer.linear.weight).addmm_(lower, a).view(x.shape), None, None, None


def _like(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return matrix if matrix.dtype == x.dtype else matrix.to(x.dtype)


@dataclass
class AdaptedModel:
    """A base ``network`` with the adapters of ``folders``, one of which is in use.

    The network's weights are frozen; while :meth:`receiving` the linears that the adapters name
    give their rows' factors in backward.
    """

    network: Any
    folders: Sequence[Path]
    matrices: list[MatrixShape] = field(init=False)
    """Of the gradient, two for each linear, in the order of their names."""
    _layers: dict[str, _Layer] = field(init=False)
    _adapters: list[AdapterWeights] = field(init=False)
    _anchor: torch.Tensor = field(init=False)
    _receive: Receive | None = None
    _rows: int = 0
    _forward: bool = False
    _number: int | None = None
    """Of the adapter in use."""

    def __post_init__(self) -> None:
        self.network.requires_grad_(False)
        self._adapters = [read_adapter(folder) for folder in self.folders]
        modules = dict(self.network.named_modules())
        known = {*modules, *dict(self.network.named_parameters())}
        for folder, adapter in zip(self.folders, self._adapters, strict=True):
            check_known(folder, [*adapter.lora, *adapter.whole], known)
            _check_kind(folder, adapter, modules)
        device = self.network.device
        self._anchor = torch.zeros((), device=device, requires_grad=True)
        first = self._adapters[0]
        empty = torch.empty(0)
        self._layers = {
            name: _Layer(name, modules[name], empty, empty, 1.0) for name in sorted(first.lora)
        }
        self.matrices = matrices_of(first)
        self.use(0)

    def use(self, number: int) -> None:
        """Put adapter ``number`` beside the base, unless it is there."""
        if number == self._number:
            return
        self._number = number
        adapter, device = self._adapters[number], self.network.device
        for name, layer in self._layers.items():
            lora = adapter.lora[name]
            kept = torch.promote_types(self.network.dtype, torch.float32)
            layer.a, layer.scale = lora.a.to(device, kept), lora.scale
            layer.b = lora.scale * lora.b.to(device, kept)
        with torch.no_grad():
            for name, tensor in adapter.whole.items():
                self.network.get_parameter(name).copy_(tensor)

    @contextmanager
    def beside(self) -> Iterator[None]:
        """In this context the network runs with the adapter in use."""
        for layer in self._layers.values():
            layer.calls = 0
            layer.linear.forward = _forward_of(layer, self)  # type: ignore[method-assign,assignment]
        try:
            yield
        finally:
            for layer in self._layers.values():
                del layer.linear.forward

    @contextmanager
    def receiving(self, rows: int, receive: Receive) -> Iterator[None]:
        """In this context a forward and backward pass of ``rows`` rows calls ``receive`` for every
        linear, once for each time that it ran.
        """
        self._receive, self._rows, self._forward = receive, rows, True
        try:
            with self.beside():
                yield
        finally:
            self._receive = None

    def backward(self, loss: torch.Tensor) -> None:
        """Backward from ``loss``; layers that run again in it are not counted as called again."""
        self._forward = False
        loss.backward()

    def calls(self, name: str) -> int:
        """How often the linear ran in the forward pass."""
        return self._layers[name].calls

    def ran(self, layer: _Layer) -> None:
        """Count a call of the forward pass."""
        layer.calls += self._forward

    @property
    def anchor(self) -> torch.Tensor:
        """A number that has a gradient, so that outputs have one whose inputs have none."""
        return self._anchor

    def hand_over(
        self,
        layer: _Layer,
        x: torch.Tensor,
        low: torch.Tensor,
        g: torch.Tensor,
        lower: torch.Tensor,
    ) -> None:
        """Give the factors of one call to the receiver, by row."""
        assert self._receive is not None
        x, low, g, lower = (_by_row(each, self._rows, layer.name) for each in (x, low, g, lower))
        if x.dtype.itemsize < 4:
            x, low, g, lower = (each.float() for each in (x, low, g, lower))
        self._receive(layer.name, RowFactors((lower, x), (layer.scale * low, g)))


def matrices_of(adapter: AdapterWeights) -> list[MatrixShape]:
    """The matrices of a gradient by A and B of every linear, both with the rank as rows."""
    found = []
    for name, lora in sorted(adapter.lora.items()):
        rank = lora.a.shape[0]
        found += [MatrixShape(f"{name}.lora_A", rank, lora.a.shape[1])]
        found += [MatrixShape(f"{name}.lora_B", rank, lora.b.shape[0])]
    return found


def _forward_of(layer: _Layer, model: AdaptedModel) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(x: torch.Tensor) -> torch.Tensor:
        model.ran(layer)
        found: torch.Tensor = _AdaptedLinear.apply(x, model.anchor, layer, model)
        return found

    return forward


def _by_row(values: torch.Tensor, rows: int, name: str) -> torch.Tensor:
    """[B, T, H] of what a layer got; of a single row every shape can be read."""
    if rows == 1:
        return values.reshape(1, -1, values.shape[-1])
    if values.dim() < 3 or values.shape[0] != rows:
        raise RowsNotApart(name)
    return values.reshape(rows, -1, values.shape[-1])


def _check_kind(folder: Path, adapter: AdapterWeights, modules: Mapping[str, nn.Module]) -> None:
    other = [
        name
        for name, lora in adapter.lora.items()
        if lora.transposed or not isinstance(modules[name], nn.Linear)
    ]
    if other or not adapter.lora:
        raise UserError(
            f"{folder}: gradients are read at linear layers with LoRA; this adapter has "
            f"{', '.join(other[:3]) or 'none'}. Train it with this project's recipe."
        )
