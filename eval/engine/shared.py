"""Answers to prompts that share pictures: each prefix runs once, questions as batches behind it.

Greedy decoding, the same as transformers' ``generate`` with one beam: the most likely token until
an end token, the longest answer or a stop text; rows that are done leave their batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from coincide.models.encode import Encoded
from coincide.models.shared_attention import CannotDivide, install
from coincide.models.shared_prefix import (
    Cached,
    begin,
    extend,
    first_of,
    forced,
    keeps_every_key,
    longer,
    step,
    tolerates_padding,
    uncached_logits,
)
from coincide.schema import UserError
from eval.decoding import Decoding
from eval.engine.batches import Batch, batches, families, most_tokens

TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3}
"""Largest difference of a checked prompt's logits, in standard deviations of them; in half
precision ``HALF``."""
HALF = 0.2
LEAVE = 0.5
"""Rows that are done leave once no more than this share of a batch is still answering."""


Check = Callable[[Mapping[int, Sequence[int]], torch.Tensor], None]


LOGITS = 1 << 27
"""Most logits at a time of answers that are given: 512 MB."""


@dataclass(frozen=True)
class Answered:
    """The answer to a prompt, and the log probability of each text that was to be looked at."""

    text: str
    logs: tuple[float, ...] = ()


class CannotShare(Exception):
    """The model's states of a prefix cannot be used for what follows; says why."""


@dataclass
class Counts:
    """Tokens and runs behind the answers given so far."""

    prompt_tokens: int = 0
    """Tokens of all prompts."""
    computed_tokens: int = 0
    """Tokens of prompts that ran, without padding."""
    prefixes: int = 0
    """Runs of a prefix with its pictures, or of a whole prompt."""


@dataclass
class SharedPrefixes:
    """Answers of ``network``. ``budget``: most tokens in caches at a time; when memory runs out it
    is lowered and stays so.
    """

    network: Any
    tokenizer: Any
    ends: frozenset[int]
    """Token ids that end an answer."""
    pad_id: int
    budget: int
    say: Callable[[str], None] = print
    counts: Counts = field(default_factory=Counts)
    once: bool = field(init=False)
    """Whether a prefix is kept once for all of its questions, not once for each."""
    checked: set[tuple[bool, bool]] = field(default_factory=set)
    """Kinds of batches (of one length, with a prefix) of which prompts were compared with the same
    alone."""

    def __post_init__(self) -> None:
        self.once = keeps_every_key(self.network) and install(self.network)

    def answers(
        self,
        prompts: Sequence[Encoded],
        decoding: Decoding,
        answered: Callable[[int], None] = lambda count: None,
    ) -> list[str]:
        """The answer to each prompt, in order; see :meth:`scored_answers`."""
        none: list[list[torch.Tensor]] = [[] for _ in prompts]
        return [each.text for each in self.scored_answers(prompts, none, decoding, answered)]

    def scored_answers(
        self,
        prompts: Sequence[Encoded],
        given: Sequence[Sequence[torch.Tensor]],
        decoding: Decoding,
        answered: Callable[[int], None] = lambda count: None,
    ) -> list[Answered]:
        """The answer to each prompt, in order, and log p of each of the texts ``given`` for it
        (token ids [T] int64, at least one; without an end token), an end included.

        ``answered`` is told the size of every batch. Raises CannotShare if the model gives other
        logits this way than for the prompt alone, and UserError if one prompt alone does not fit
        into memory.
        """
        found: dict[int, Answered] = {}
        waiting = list(range(len(prompts)))
        while waiting:
            rows = [prompts[i] for i in waiting]
            for batch in self._batches(rows, decoding):
                try:
                    texts = self._run(rows, [given[i] for i in waiting], batch, decoding)
                except (CannotDivide, CannotShare):
                    if not self.once:
                        raise
                    self.once = False  # repeat the prefix for each of its questions
                    break
                except torch.OutOfMemoryError as error:
                    self._lower(rows, batch, decoding, error)
                    break
                found |= {waiting[i]: t for i, t in zip(batch.places, texts, strict=True)}
                answered(len(texts))
            waiting = [i for i in waiting if i not in found]
        return [found[i] for i in range(len(prompts))]

    def _batches(self, prompts: Sequence[Encoded], decoding: Decoding) -> list[Batch]:
        new = decoding.max_new_tokens
        longest = max(len(prompt.input_ids) for prompt in prompts)
        padded = tolerates_padding(self.network, 2 * longest + new)
        return batches(prompts, families(prompts), self.budget, new, padded=padded, once=self.once)

    def _lower(
        self, prompts: Sequence[Encoded], batch: Batch, decoding: Decoding, error: Exception
    ) -> None:
        tokens = most_tokens(prompts, batch.families, decoding.max_new_tokens, once=self.once)
        if len(batch.places) == 1:
            raise UserError(
                f"a prompt that takes {tokens} tokens with its answer does not fit into the memory "
                f"of {self.network.device}: {error}. Use a GPU with more memory, or "
                "eval.dtype=bfloat16."
            ) from error
        self.budget = min(self.budget, tokens) // 2
        self.say(
            f"{self.network.device} is out of memory; going on with at most "
            f"{self.budget:,} tokens at a time (eval.batch_tokens)"
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _run(
        self,
        prompts: Sequence[Encoded],
        given: Sequence[Sequence[torch.Tensor]],
        batch: Batch,
        decoding: Decoding,
    ) -> list[Answered]:
        """Answers to one batch, in the order of ``batch.places``."""
        rows = [prompts[i] for i in batch.places]
        kind = (batch.alike, any(family.prefix for family in batch.families))
        check = None if kind in self.checked else partial(self._check, rows)
        with torch.inference_mode():
            state = self._prompted(prompts, batch)
            logs = self._forced(state, [given[i] for i in batch.places], batch.alike)
            answers, compared = self._decoded(state, decoding, check)
        if compared and (batch.alike or len({len(row.input_ids) for row in rows}) > 1):
            self.checked.add(kind)
        return [
            Answered(self._text(ids, decoding), tuple(mine))
            for ids, mine in zip(answers, logs, strict=True)
        ]

    def _forced(
        self, state: Cached, given: Sequence[Sequence[torch.Tensor]], alike: bool
    ) -> list[list[float]]:
        """log p of the texts ``given`` for each row behind its prompt, which stays as it is.

        At most as many texts at a time as the batch has rows; with ``alike`` of one length each.
        """
        logs = [[0.0] * len(mine) for mine in given]
        places = [(row, i) for row, mine in enumerate(given) for i in range(len(mine))]
        kinds: dict[int, list[tuple[int, int]]] = {}
        for row, i in places:
            kinds.setdefault(len(given[row][i]) if alike else 0, []).append((row, i))
        longest = max((len(text) for mine in given for text in mine), default=1)
        step = max(1, min(state.rows, LOGITS // (longest * state.logits.shape[1])))
        for kind in kinds.values():
            for start in range(0, len(kind), step):
                part = kind[start : start + step]
                behind = state.copied().chosen([row for row, _ in part])
                texts = [given[row][i] for row, i in part]
                found = forced(self.network, behind, texts, sorted(self.ends), self.pad_id)
                for (row, i), value in zip(part, found, strict=True):
                    logs[row][i] = value
        return logs

    def _prompted(self, prompts: Sequence[Encoded], batch: Batch) -> Cached:
        """The prompts of the batch after all their tokens ran."""
        rows = [prompts[i] for i in batch.places]
        self.counts.prompt_tokens += sum(len(row.input_ids) for row in rows)
        self.counts.prefixes += len(batch.families)
        if not any(family.prefix for family in batch.families):
            self.counts.computed_tokens += sum(len(row.input_ids) for row in rows)
            return begin(self.network, rows, self.pad_id)
        firsts = [first_of(prompts[f.places[0]], f.prefix) for f in batch.families]
        rests = [prompts[i].input_ids[f.prefix :] for f in batch.families for i in f.places]
        self.counts.computed_tokens += sum(map(len, rests)) + sum(f.prefix for f in batch.families)
        begun = begin(self.network, firsts, self.pad_id)
        owners = [number for number, f in enumerate(batch.families) for _ in f.places]
        begun = begun.shared(owners) if self.once else begun.chosen(owners)
        return extend(self.network, begun, rests, self.pad_id)

    def _decoded(
        self, state: Cached, decoding: Decoding, check: Check | None
    ) -> tuple[list[list[int]], bool]:
        """Token ids of each row's answer, and whether ``check`` saw the logits of two tokens."""
        answers: list[list[int]] = [[] for _ in range(state.rows)]
        rows = list(range(state.rows))  # row of the state -> row of the batch
        alive = set(rows)
        for token in itertools.count():
            if check and token < 2:
                check({row: answers[row] for row in rows}, state.logits)
            chosen = state.logits.argmax(dim=-1)
            for row, one in zip(rows, chosen.tolist(), strict=True):
                if row in alive:
                    answers[row].append(one)
                    if self._done(answers[row], decoding):
                        alive.discard(row)
            if not alive:
                return answers, token >= 1
            left = [place for place, row in enumerate(rows) if row in alive]
            to_come = decoding.max_new_tokens - token - 1
            if len(left) <= LEAVE * len(rows) and to_come > 2 and not (check and token < 1):
                state, chosen = state.chosen(left), chosen[left]
                rows = [rows[place] for place in left]
            state = step(self.network, state, chosen)
        raise AssertionError("an answer has a longest length")

    def _check(
        self, prompts: Sequence[Encoded], answers: Mapping[int, Sequence[int]], logits: torch.Tensor
    ) -> None:
        """Raise CannotShare if the longest or shortest of ``prompts`` has other logits alone.

        ``answers``: row of the batch -> tokens of its answer so far, in the order of ``logits``.
        """
        by_length = sorted(answers, key=lambda row: len(prompts[row].input_ids))
        allowed = TOLERANCE.get(self.network.dtype, HALF)
        for row in {by_length[0], by_length[-1]}:
            mine = logits[list(answers).index(row)]
            usual = uncached_logits(self.network, longer(prompts[row], answers[row]), self.pad_id)
            apart = float((usual - mine).abs().max() / usual.std())
            if not apart <= allowed:
                raise CannotShare(
                    f"logits behind a shared prefix differ by {apart:.2g} standard deviations from "
                    f"those of the prompt alone (at most {allowed:g} in {self.network.dtype})"
                )

    def _done(self, ids: Sequence[int], decoding: Decoding) -> bool:
        if ids[-1] in self.ends or len(ids) >= decoding.max_new_tokens:
            return True
        if not decoding.until:
            return False
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return any(stop in text for stop in decoding.until)

    def _text(self, ids: Sequence[int], decoding: Decoding) -> str:
        return decoding.cut(self.tokenizer.decode(ids, skip_special_tokens=True))
