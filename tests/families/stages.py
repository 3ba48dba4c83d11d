"""Hold every stage of the project to plain transformers, for one tiny family.

Each check gives ``right``, ``refused: ...`` where the project says no in words, ``WRONG: ...``
where a value differs, and ``ERROR: ...`` where anything else ends it.
"""

from __future__ import annotations

import contextlib
import io
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coincide.config import FeaturePass
from coincide.features.engine.contract import WorkerSite
from coincide.features.forward.capture import ATTENTION, attention_of, decoder_layers
from coincide.features.forward.rows import reference_computer
from coincide.features.signals.activations import Activations
from coincide.features.signals.hidden_last import HiddenLast
from coincide.features.signals.token_scores import TokenScores
from coincide.models.encode import IGNORE, Encoded, encode
from coincide.models.hub import Hub
from coincide.models.load import load_model, load_processor
from coincide.models.probe import check_model
from coincide.models.template import TEMPLATES
from coincide.schema import Dataset, UserError
from tests.families.plain import DTYPE, Plain

CHAT = TEMPLATES["chat"]
CLOSE = 1e-5
"""Largest difference taken for rounding, in float64 with rotary tables in float32."""
NEW = 6
"""Tokens of an answer that is compared."""


@dataclass(frozen=True)
class Chat:
    """What the pass asks of a model source."""

    template: str = "chat"
    max_length: int = 4096
    name: str = "tiny"


@dataclass
class Stages:
    """The stages of one family, saved in ``folder``, on the rows of ``dataset``."""

    folder: Path
    dataset: Dataset
    found: dict[str, str] = field(default_factory=dict)

    @cached_property
    def processor(self) -> Any:
        processor = load_processor(self.folder)
        check_model(processor, "chat")
        return processor

    @cached_property
    def plain(self) -> Plain:
        return Plain.load(self.folder)

    @cached_property
    def network(self) -> Any:
        return load_model(self.folder, DTYPE, "cpu")

    @cached_property
    def encoded(self) -> list[Encoded]:
        return [encode(e, self.dataset, self.processor, CHAT, 4096) for e in self.dataset.examples]

    def run(self) -> dict[str, str]:
        """The outcome of each stage."""
        self.found["plan"] = outcome(lambda: plan(self))
        if self.found["plan"] == "right":
            self._leave_out()
            for stage in (inputs, labels, features, training, answers):
                self.found[stage.__name__] = outcome(lambda stage=stage: stage(self))
        return self.found

    def _leave_out(self) -> None:
        """Leave out rows that the family's own processor does not take; the project refuses them
        in words.
        """
        kept, refused = [], []
        for example in self.dataset.examples:
            try:
                self.plain.inputs(example, self.dataset)
                kept.append(replace(example, row=len(kept)))
            except Exception:
                mine = outcome(
                    lambda e=example: str(encode(e, self.dataset, self.processor, CHAT, 99))
                )
                refused.append(f"row {example.id}: {mine.partition('. ')[0]}")
        if refused:
            self.found["note"] = "its processor takes not every row; " + "; ".join(refused)
            self.dataset = replace(self.dataset, examples=tuple(kept))


def outcome(check: Callable[[], str]) -> str:
    """What ``check`` found, or how it ended."""
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            return check()
        except UserError as error:
            return "refused: " + " ".join(str(error).split())
        except Exception as error:
            places = traceback.extract_tb(error.__traceback__)
            last = [f"{Path(p.filename).name}:{p.lineno}" for p in places[-3:]]
            return f"ERROR: {type(error).__name__}: {' '.join(str(error).split())[:200]} at {last}"


def plan(stages: Stages) -> str:
    """What is said before anything runs, from the names and headers of files alone."""
    from train.requirements import trainable

    model = Hub(str(stages.folder))
    unmet = [r for r in (*model.requirements(), *trainable(model)) if not r.met]
    if notes := [r.found for r in unmet if not r.fatal]:
        stages.found["note"] = " ".join(notes)
    faults = [r.found for r in model.requirements() if not r.met]
    return "refused: " + " ".join(faults) if faults else "right"


def inputs(stages: Stages) -> str:
    """Token ids and inputs are those of the processor's own chat call; an end token may follow."""
    for example, mine in zip(stages.dataset.examples, stages.encoded, strict=True):
        theirs = stages.plain.inputs(example, stages.dataset)
        ids = theirs.pop("input_ids")[0]
        theirs.pop("attention_mask", None)
        if not torch.equal(mine.input_ids[: len(ids)], ids) or len(mine.input_ids) > len(ids) + 1:
            return f"WRONG: token ids of row {example.id}"
        own = dict(mine.extra) | ({} if mine.pixel_values is None else {"pixel_values": 0})
        if missing := sorted(own.keys() ^ theirs.keys()):
            return f"WRONG: {', '.join(missing)} of row {example.id}"
        places = stages.plain.feature_places({**theirs, "input_ids": ids[None]})
        indicators = getattr(stages.plain.model.config, "visual_indicator_token_ids", None) or []
        places &= ~torch.isin(ids, torch.tensor(indicators))  # learnt embeddings, no features
        if not torch.equal(mine.image_mask[: len(ids)], places):
            return f"WRONG: picture tokens of row {example.id}"
    return "right"


def labels(stages: Stages) -> str:
    """Labels are the assistant's texts, each with the white space that the template puts there, and
    a token that ends the last of them.
    """
    ends = set(ends_of(stages.plain.model, stages.processor))
    for example, row in zip(stages.dataset.examples, stages.encoded, strict=True):
        learnt = row.labels != IGNORE
        got = str(stages.processor.tokenizer.decode(row.input_ids[learnt]))
        said = [turn.text for turn in example.turns if turn.role == "gpt"]
        rest = got
        for text in said:
            before, _, rest = rest.partition(text)
            if not _is_ending(before, stages.processor) or text not in got:
                return f"WRONG: {got!r} of row {example.id} for {said}"
        if not _is_ending(rest, stages.processor):
            return f"WRONG: {got!r} of row {example.id} for {said}"
        if not ends & set(row.input_ids[learnt][-2:].tolist()):
            return f"WRONG: no end token in {got!r} of row {example.id}"
    return "right"


def _is_ending(text: str, processor: Any) -> bool:
    """Whether ``text`` is white space, special tokens and an empty thought alone."""
    tokenizer = processor.tokenizer
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    for token in (*tokenizer.all_special_tokens, *added, "<think>", "</think>"):
        text = text.replace(token, "")
    return not text.strip()


def ends_of(model: Any, processor: Any) -> list[int]:
    """Token ids that end an answer: of the checkpoint, and the template's own, last in a turn."""
    from coincide.models.chat import end_ids

    return end_ids(processor, model)


def features(stages: Stages) -> str:
    """Activations, last state and scores of the whole pass, in batches and with shared pictures,
    are those of each row alone in plain transformers.
    """
    layers = decoder_layers(stages.network)
    having = [i for i, layer in enumerate(layers) if any(hasattr(layer, n) for n in ATTENTION)]
    used = (having[0], having[-1])
    signals = (Activations(used), HiddenLast(), TokenScores())
    site = WorkerSite(stages.folder, stages.dataset, "cpu", 0)
    options = FeaturePass(batch_size=5)
    with reference_computer(Chat(), "float64", options, signals, site) as computer:  # type: ignore[arg-type]
        values, valid = computer(stages.dataset.examples, lambda count: None)
    if not valid.all():
        return f"WRONG: rows {np.flatnonzero(~valid).tolist()} are not valid"
    apart = dict.fromkeys(("activations", "last state", "NLL"), 0.0)
    for example, row in zip(stages.dataset.examples, stages.encoded, strict=True):
        mine = [value[example.row] for value in values]
        truth = _plain_features(stages, example.row, row, used)
        for name, one, other in zip(apart, (mine[0], mine[1], mine[2][2]), truth, strict=True):
            apart[name] = max(apart[name], float(np.abs(one - other).max()))
    off = {name: value for name, value in apart.items() if not value < CLOSE}
    return "WRONG: " + ", ".join(f"{n} off by {v:.1g}" for n, v in off.items()) if off else "right"


def _plain_features(
    stages: Stages, number: int, row: Encoded, used: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    plain = stages.plain
    inputs = _continued(plain.inputs(stages.dataset.examples[number], stages.dataset), row)
    seen = [attention_of(decoder_layers(plain.model), layer) for layer in used]
    output = plain.forward(inputs, seen)
    parts = []
    for states in seen:
        for mask in (row.image_mask, row.text_mask):
            mean = torch.zeros(states.shape[-1], dtype=DTYPE)
            if mask.any():
                mean = torch.tanh(states.reshape(-1, states.shape[-1])[mask].mean(0))
                mean = mean / mean.norm()
            parts.append(mean)
    joined = torch.cat(parts)
    nll = _nll(output.logits, row.labels)
    last = output.hidden_states[-1][0, -1]
    return (joined / joined.norm()).numpy(), last.numpy(), np.asarray(nll)


def _continued(inputs: dict[str, Any], row: Encoded) -> dict[str, Any]:
    """``inputs`` with the end token that the project puts behind the last answer, if it does."""
    more = row.input_ids[inputs["input_ids"].shape[1] :]
    if not len(more):
        return inputs
    length = inputs["input_ids"].shape[1]
    found = dict(inputs)
    for name, value in inputs.items():
        if torch.is_tensor(value) and value.shape[:2] == (1, length):
            fill = more if name == "input_ids" else torch.ones_like(more)
            fill = fill if name in ("input_ids", "attention_mask") else torch.zeros_like(more)
            found[name] = torch.cat([value, fill[None].to(value.dtype)], dim=1)
    return found


def _nll(logits: torch.Tensor, labels: torch.Tensor, reduction: str = "mean") -> float:
    learnt = labels[1:] != IGNORE
    found = torch.nn.functional.cross_entropy(
        logits[0, :-1][learnt].double(), labels[1:][learnt], reduction=reduction
    )
    return float(found)


def training(stages: Stages) -> str:
    """The first loss of a padded batch, with LoRA and through the trainer's loss, is the plain sum
    over answer tokens; a batch without pictures and a batch of all rows alike.
    """
    from train.data import EncodedExamples, collator
    from train.lora import add_lora
    from train.recipe import Recipe
    from train.requirements import trainable
    from train.trainer import answer_loss

    if unmet := [r for r in trainable(Hub(str(stages.folder))) if not r.met and r.fatal]:
        return f"refused: {unmet[0].found}; {unmet[0].remedy}"
    recipe = Recipe(rank=2, alpha=4, dropout=0.0, gradient_checkpointing=False, zero_stage=0)
    network = load_model(stages.folder, torch.float32, "cpu")
    adapted = add_lora(network, recipe, base="tiny", keep_dtype=True)
    adapted.train()
    for module in adapted.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # of the family's own, which would differ every time
    examples = EncodedExamples(stages.dataset, stages.processor, "chat", 4096)
    together = collator(examples.filler, stages.processor.tokenizer.pad_token_id)
    texts = [i for i, e in enumerate(stages.dataset.examples) if not e.images]
    for rows in (texts, list(range(len(stages.dataset)))):
        batch = together([examples[i] for i in rows])
        wanted = batch.pop("labels")
        tokens = int((wanted[:, 1:] != IGNORE).sum())
        with torch.no_grad():
            loss = float(answer_loss(adapted(**batch), wanted, tokens))
        truth = sum(_plain_nll(stages, i) for i in rows) / tokens
        if not abs(loss - truth) < 1e-3 * max(1, abs(truth)):
            return f"WRONG: loss {loss:.5f}, plain {truth:.5f}"
    return "right"


def _plain_nll(stages: Stages, number: int) -> float:
    row = stages.encoded[number]
    inputs = _continued(stages.plain.inputs(stages.dataset.examples[number], stages.dataset), row)
    return _nll(stages.plain.forward(inputs, []).logits, row.labels, "sum")


def answers(stages: Stages) -> str:
    """Greedy answers to the first questions, in a batch padded on the left and behind shared
    prefixes, are those of plain ``generate`` alone.
    """
    from eval.decoding import Decoding
    from eval.model import LmmsEvalModel

    for tokens in (None, 2048):
        model = LmmsEvalModel(
            stages.folder, None, template=CHAT, batch_size=4, batch_tokens=tokens, dtype="float64",
            device="cpu",
        )  # fmt: skip
        prompts = [_prompt(stages, number) for number in range(len(stages.dataset))]
        got = model.answers(prompts, Decoding(NEW, 1, ()))
        for number, (text, example) in enumerate(zip(got, stages.dataset.examples, strict=True)):
            asked = stages.plain.inputs(_first(example), stages.dataset, asking=True)
            ids = stages.plain.answer(asked, NEW)
            tokenizer = stages.plain.processor.tokenizer
            want = Decoding(NEW, 1, ()).cut(tokenizer.decode(ids, skip_special_tokens=True))
            if text != want:
                return f"WRONG: row {number} is answered {text!r}, plain {want!r}"
    return "right"


def _first(example: Any) -> Any:
    return replace(example, turns=example.turns[:1])


def _prompt(stages: Stages, number: int) -> Encoded:
    from PIL import Image

    from coincide.models.encode import encode_prompt

    example = stages.dataset.examples[number]
    root = stages.dataset.image_root
    pictures = [Image.open(root / name).convert("RGB") for name in example.images]
    return encode_prompt(example.turns[:1], pictures, stages.processor, CHAT)
