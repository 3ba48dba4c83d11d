"""Token prefixes that prompts share, computed once: keys and values of a prefix, and what stands
behind them.

With causal attention the states of a prompt's first tokens do not depend on what follows. So the
opening, the picture and its tokens run once, their cache is repeated for every prompt that begins
with them, and only the rest of each prompt runs. Padding stands on the left, also between a prefix
and the rest; positions are counted over the tokens that are no padding. Decoders that keep less
than every key (sliding windows that the sequence exceeds, linear attention, convolutions) see such
padding; for them :func:`tolerates_padding` is false and all rows of a batch must be equally long.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from coincide.models.encode import PER_TOKEN, Encoded, collate, model_inputs


@dataclass(frozen=True)
class Cached:
    """B rows of tokens that ran: what their continuation needs."""

    cache: Any
    """transformers' cache with B rows."""
    mask: torch.Tensor
    """int64 [B, S]: 0 at padding."""
    shift: torch.Tensor | None
    """int64 [B, 1]: what multimodal positions (M-RoPE) add to the count of tokens; None: the model
    has one position a token."""
    logits: torch.Tensor
    """float32 [B, vocabulary]: of the token after the last."""

    @property
    def rows(self) -> int:
        """Number of rows B."""
        return len(self.mask)

    def chosen(self, rows: Sequence[int]) -> Cached:
        """Rows ``rows``, each as often as it is named; this object's own states are given up."""
        index = torch.tensor(list(rows), device=self.mask.device)
        self.cache.reorder_cache(index)
        return self._with(index)

    def shared(self, rows: Sequence[int]) -> Cached:
        """As :meth:`chosen`, ``rows`` ascending; the states are kept once, for a model that
        :func:`coincide.models.shared_attention.install` took.
        """
        from coincide.models.shared_attention import shared_layer

        layers = [shared_layer(layer, self.mask, list(rows)) for layer in self.cache.layers]
        self.cache.layers = layers
        return self._with(torch.tensor(list(rows), device=self.mask.device))

    def copied(self) -> Cached:
        """The same states for another continuation; neither's changes the other's."""
        cache = copy.copy(self.cache)
        cache.layers = [
            copy.copy(layer) if hasattr(layer, "keys") else copy.deepcopy(layer)
            for layer in self.cache.layers
        ]
        return replace(self, cache=cache)

    def _with(self, index: torch.Tensor) -> Cached:
        shift = None if self.shift is None else self.shift[index]
        return Cached(self.cache, self.mask[index], shift, self.logits[index])


def begin(network: Any, rows: Sequence[Encoded], pad_id: int) -> Cached:
    """Run ``rows``, whole prompts or prefixes with all their pictures, padded on the left."""
    inputs = _inputs(network, rows, pad_id)
    mask = inputs["attention_mask"]
    if not multimodal_positions(network):
        inputs.setdefault("position_ids", _counted(mask))
    cache = new_cache(network)
    found = _forward(network, inputs, cache)
    return Cached(cache, mask, _shift(network, len(rows)), _last(found))


def extend(network: Any, behind: Cached, texts: Sequence[torch.Tensor], pad_id: int) -> Cached:
    """Run the token ids ``texts`` [T_i] int64, one for each row of ``behind``, whose cache grows.

    Padded on the left where their lengths differ.
    """
    return _continued(network, behind, *_padded(texts, pad_id, network.device))


def _padded(
    texts: Sequence[torch.Tensor], pad_id: int, device: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask [B, T]."""
    ids = torch.nn.utils.rnn.pad_sequence(
        list(texts), batch_first=True, padding_value=pad_id, padding_side="left"
    )
    new = torch.nn.utils.rnn.pad_sequence(
        [torch.ones_like(text) for text in texts], batch_first=True, padding_side="left"
    )
    return ids.to(device), new.to(device)


def forced(
    network: Any, behind: Cached, texts: Sequence[torch.Tensor], ends: Sequence[int], pad_id: int
) -> list[float]:
    """log p of each row's text of token ids [T_i] int64 after ``behind``, and of one of the tokens
    ``ends`` after it (none: the text alone). The states of ``behind`` are given up.
    """
    grown = _padded(texts, pad_id, network.device)
    found = _run_behind(network, behind, *grown, keep=grown[0].shape[1])
    first = behind.logits.log_softmax(dim=-1)
    after = _all_logits(found).log_softmax(dim=-1)
    total = []
    for row, text in enumerate(texts):
        mine, ids = after[row, -len(text) :], text.to(after.device)
        said = first[row, ids[0]] + mine[:-1].gather(1, ids[1:, None]).sum()
        end = mine[-1, list(ends)].logsumexp(dim=-1) if ends else 0.0
        total.append(float(said + end))
    return total


def uncached_forced(
    network: Any,
    rows: Sequence[Encoded],
    texts: Sequence[torch.Tensor],
    ends: Sequence[int],
    pad_id: int,
) -> list[float]:
    """As :func:`forced`, each text behind its whole prompt, from the model without a cache."""
    whole = [longer(row, text.tolist()) for row, text in zip(rows, texts, strict=True)]
    inputs = _inputs(network, whole, pad_id)
    most = max(map(len, texts)) + 1
    found = network(**inputs, use_cache=False, **_kept(network, most))
    after = _all_logits(found).log_softmax(dim=-1)
    total = []
    for row, text in enumerate(texts):
        mine, ids = after[row, -len(text) - 1 :], text.to(after.device)
        said = mine[:-1].gather(1, ids[:, None]).sum()
        end = mine[-1, list(ends)].logsumexp(dim=-1) if ends else 0.0
        total.append(float(said + end))
    return total


def step(network: Any, behind: Cached, tokens: torch.Tensor) -> Cached:
    """Run one token more for each row; ``tokens`` int64 [B]."""
    ids = tokens[:, None]
    return _continued(network, behind, ids, torch.ones_like(ids))


def uncached_logits(network: Any, row: Encoded, pad_id: int) -> torch.Tensor:
    """Logits [vocabulary] of the token after ``row``, from the model without a cache."""
    found = network(**_inputs(network, [row], pad_id), use_cache=False)
    return _last(found)[0]


def _inputs(network: Any, rows: Sequence[Encoded], pad_id: int) -> dict[str, torch.Tensor]:
    batch = collate(rows, pad_id, side="left")
    return {
        name: value.to(network.device, network.dtype if value.is_floating_point() else None)
        for name, value in model_inputs(batch).items()
        if name != "labels"
    }


def _continued(network: Any, behind: Cached, ids: torch.Tensor, new: torch.Tensor) -> Cached:
    found = _run_behind(network, behind, ids, new)
    mask = torch.cat([behind.mask, new], dim=1)
    return Cached(behind.cache, mask, behind.shift, _last(found))


def _run_behind(
    network: Any, behind: Cached, ids: torch.Tensor, new: torch.Tensor, keep: int = 1
) -> Any:
    mask = torch.cat([behind.mask, new], dim=1)
    positions = _counted(mask)[:, -ids.shape[1] :]
    if behind.shift is not None:
        positions = (positions + behind.shift)[None].expand(3, -1, -1)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    return _forward(network, inputs, behind.cache, keep)


def _forward(network: Any, inputs: Mapping[str, torch.Tensor], cache: Any, keep: int = 1) -> Any:
    return network(**inputs, past_key_values=cache, use_cache=True, **_kept(network, keep))


def _kept(network: Any, keep: int) -> dict[str, int]:
    """The argument by which the model computes logits of the last ``keep`` tokens alone."""
    few = "logits_to_keep" in inspect.signature(network.forward).parameters
    return {"logits_to_keep": keep} if few else {}


def _all_logits(output: Any) -> torch.Tensor:
    logits: torch.Tensor = output.logits
    return logits if logits.dtype == torch.float64 else logits.float()


def _last(output: Any) -> torch.Tensor:
    return _all_logits(output)[:, -1]


def _counted(mask: torch.Tensor) -> torch.Tensor:
    """Position of each token among those that are no padding, [B, S]."""
    return (mask.cumsum(1) - 1).clamp(min=0)


def multimodal_positions(network: Any) -> bool:
    """Whether the model computes positions in three directions itself (M-RoPE)."""
    base = network.base_model  # some families have the attribute and one position a token
    return hasattr(base, "rope_deltas") and hasattr(base, "get_rope_index")


def _shift(network: Any, rows: int) -> torch.Tensor | None:
    """M-RoPE: what the model that just ran has added to the count; it keeps it on itself."""
    if not multimodal_positions(network):
        return None
    shift = network.base_model.rope_deltas
    if shift is None:
        return torch.zeros((rows, 1), dtype=torch.int64, device=network.device)
    return shift.to(network.device).reshape(-1, 1).expand(rows, 1).clone()


def new_cache(network: Any) -> Any:
    """An empty cache with the layers that the model's decoder needs."""
    from transformers.cache_utils import DynamicCache

    return DynamicCache(config=network.config.get_text_config(decoder=True))


def tolerates_padding(network: Any, length: int) -> bool:
    """Whether padding between a prefix and the rest leaves the other tokens of sequences of up to
    ``length`` tokens, padding included, as they are.

    True where every layer keeps every key; of sliding windows only while all tokens fit in.
    """
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    return all(
        type(layer) is DynamicLayer
        or (type(layer) is DynamicSlidingWindowLayer and length < layer.sliding_window)
        for layer in new_cache(network).layers
    )


def keeps_every_key(network: Any) -> bool:
    """Whether all layers of the model's cache are of the plain kind."""
    from transformers.cache_utils import DynamicLayer

    return all(type(layer) is DynamicLayer for layer in new_cache(network).layers)


def prefix_length(rows: Sequence[Encoded]) -> int:
    """Number of leading tokens that all ``rows`` have in common, all but one of the shortest at
    most; 0 where they do not contain all of each row's picture tokens, or no picture.

    The rows show the same pictures, which the caller has compared.
    """
    most = min(len(row.input_ids) for row in rows) - 1
    first = rows[0].input_ids[:most]
    for row in rows[1:]:
        apart = torch.nonzero(row.input_ids[: len(first)] != first[: len(row.input_ids)])
        first = first[: int(apart[0])] if len(apart) else first
    end = max(pictures_end(row) for row in rows)
    return len(first) if 0 < end <= len(first) else 0


def pictures_end(row: Encoded) -> int:
    """Number of tokens up to the end of the row's last picture; 0 without one."""
    places = torch.nonzero(row.image_mask)
    return int(places[-1]) + 1 if len(places) else 0


def first_of(row: Encoded, length: int) -> Encoded:
    """The first ``length`` tokens of ``row``, which contain all its pictures."""
    extra = {k: v[:length] if k in PER_TOKEN else v for k, v in row.extra.items()}
    return replace(
        row,
        input_ids=row.input_ids[:length],
        labels=row.labels[:length],
        image_mask=row.image_mask[:length],
        text_mask=row.text_mask[:length],
        extra=extra,
    )


def longer(row: Encoded, ids: Sequence[int]) -> Encoded:
    """``row`` with the tokens ``ids`` of an answer behind it."""
    new = torch.tensor(list(ids), dtype=torch.int64)
    no = torch.zeros(len(new), dtype=torch.bool)

    def joined(name: str, value: torch.Tensor) -> torch.Tensor:
        return torch.cat([value, torch.zeros_like(new)]) if name in PER_TOKEN else value

    return replace(
        row,
        input_ids=torch.cat([row.input_ids, new]),
        labels=torch.cat([row.labels, new]),
        image_mask=torch.cat([row.image_mask, no]),
        text_mask=torch.cat([row.text_mask, ~no]),
        extra={name: joined(name, value) for name, value in row.extra.items()},
    )


def same_pictures(one: Encoded, other: Encoded) -> bool:
    """Whether two rows show the model the same pictures, number by number."""

    def parts(row: Encoded) -> dict[str, torch.Tensor]:
        found = {k: v for k, v in row.extra.items() if k not in PER_TOKEN}
        return found if row.pixel_values is None else {**found, "": row.pixel_values}

    mine, others = parts(one), parts(other)
    return mine.keys() == others.keys() and all(
        value is others[name] or torch.equal(value, others[name]) for name, value in mine.items()
    )
