"""The evaluated model: an image-text model with adapter that answers greedily.

As lmms-eval calls it, in plain batches of prompts; and as :mod:`eval.kept` asks it, where questions
about one picture share what they begin with (:mod:`eval.engine`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms

from coincide.models.chat import end_ids
from coincide.models.continuation import Continuations
from coincide.models.encode import Encoded, batches_of, collate, encode_prompt, model_inputs
from coincide.models.load import load_model, load_processor
from coincide.models.shared_prefix import uncached_forced
from coincide.models.template import Template
from coincide.schema import Turn, UserError
from coincide.system.files import sha256_file
from eval.decoding import Decoding
from eval.engine.shared import Answered, CannotShare, Counts, SharedPrefixes
from eval.messages import turns_and_pictures


class LmmsEvalModel(lmms):
    """Base model with its PEFT adapter merged in; answers batches of documents of any kind."""

    is_simple = False

    def __init__(
        self,
        model_dir: Path,
        adapter_dir: Path | None,
        *,
        template: Template,
        batch_size: int,
        batch_tokens: int | None = None,
        dtype: str = "float32",
        device: str = "auto",
        answered: Callable[[int], None] = lambda count: None,
    ) -> None:
        """``answered`` is called with the number of answers after every batch. ``batch_tokens``: of
        the engine that shares prefixes; None: it is not used.
        """
        super().__init__()
        self.folders = [model_dir, *([adapter_dir] if adapter_dir else [])]
        self.template = template
        self.batch_size = batch_size
        self.dtype = dtype
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self.answered = answered
        self.processor = load_processor(model_dir)
        self.continuations = Continuations(self.processor, template)
        self.model = with_adapter(
            load_model(model_dir, getattr(torch, dtype), self.device), adapter_dir
        )
        self.model.generation_config = settings = self._generation_config()
        ends = settings.eos_token_id
        self.notes: list[str] = []
        """What a user should know of how the answers came about."""
        self.shared = None if batch_tokens is None else SharedPrefixes(
            self.model, self.processor.tokenizer,
            frozenset(ends if isinstance(ends, list) else [ends]), settings.pad_token_id,
            batch_tokens, self.notes.append,
        )  # fmt: skip

    def __repr__(self) -> str:
        """The identity by which lmms-eval tells models apart: hashes of the weights, never
        paths.
        """
        digests = [_digest(folder) for folder in self.folders]
        return f"Llava({'+'.join(digests)}, {self.template}, {self.dtype})"

    def clean(self) -> None:
        """Does nothing: lmms-eval would delete the model after the first task."""

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise UserError("tasks scored by likelihood are not supported; choose a generative task.")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise UserError("tasks of several rounds are not supported; choose a one-round task.")

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The answer to each request, in order; independent of the batch size."""
        answers: dict[int, str] = {}
        for decoding, batch in self._batches(requests):
            texts = self._answer([self._encoded(requests[i]) for i in batch], decoding)
            answers.update(zip(batch, texts, strict=True))
            self.answered(len(batch))
        return [answers[i] for i in range(len(requests))]

    def encode(
        self, turns: Sequence[Turn], pictures: Sequence[Any], prepared: dict[bytes, torch.Tensor]
    ) -> Encoded:
        """What the model reads before it answers the last of ``turns``, encoded as in training.

        ``prepared``: pixels of pictures by their content, for prompts that share some; filled.
        """
        return encode_prompt(turns, pictures, self.processor, self.template, prepared)

    def answers(self, prompts: Sequence[Encoded], decoding: Decoding) -> list[str]:
        """The answer to each prompt, in order; see :meth:`scored_answers`."""
        return [each.text for each in self.scored_answers(prompts, [()] * len(prompts), decoding)]

    def scored_answers(
        self, prompts: Sequence[Encoded], given: Sequence[Sequence[str]], decoding: Decoding
    ) -> list[Answered]:
        """The answer to each prompt, in order, and the log probabilities of the texts ``given`` for
        it: behind shared prefixes where the model allows it, else in plain batches.
        """
        parts = batches_of(prompts)
        if len(parts) > 1:  # pictures that cannot be one batch
            found: dict[int, Answered] = {}
            for part in parts:
                mine = self.scored_answers(
                    [prompts[i] for i in part], [given[i] for i in part], decoding
                )
                found.update(zip(part, mine, strict=True))
            return [found[i] for i in range(len(prompts))]
        ids = [[self.continuation(text) for text in each] for each in given]
        if self.shared is not None and decoding.num_beams == 1:
            try:
                return self.shared.scored_answers(prompts, ids, decoding, self.answered)
            except CannotShare as why:
                self.notes.append(f"no prefix is shared: {why}; answered as with eval.engine=plain")
                self.shared = None
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i].input_ids), i))
        found = {}
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            said = self._answer([prompts[i] for i in batch], decoding)
            logs = self.logs([prompts[i] for i in batch], [ids[i] for i in batch])
            both = map(Answered, said, map(tuple, logs))
            found.update(zip(batch, both, strict=True))
            self.answered(len(batch))
        return [found[i] for i in range(len(prompts))]

    def continuation(self, text: str) -> torch.Tensor:
        """Token ids int64 [T] of an answer behind a prompt, without its end."""
        return self.continuations.ids(text)

    def logs(
        self, prompts: Sequence[Encoded], given: Sequence[Sequence[torch.Tensor]]
    ) -> list[list[float]]:
        """log p of the texts ``given`` (token ids) for each prompt, behind the whole of it."""
        places = [(row, i) for row, mine in enumerate(given) for i in range(len(mine))]
        logs = [[0.0] * len(mine) for mine in given]
        settings = self.model.generation_config
        ends = settings.eos_token_id
        with torch.inference_mode():
            for start in range(0, len(places), self.batch_size):
                part = places[start : start + self.batch_size]
                found = uncached_forced(
                    self.model, [prompts[row] for row, _ in part],
                    [given[row][i] for row, i in part],
                    ends if isinstance(ends, list) else [ends], settings.pad_token_id,
                )  # fmt: skip
                for (row, i), value in zip(part, found, strict=True):
                    logs[row][i] = value
        return logs

    @property
    def counts(self) -> Counts | None:
        """What the engine that shares prefixes computed; None: it is not used."""
        return None if self.shared is None else self.shared.counts

    def _batches(self, requests: Sequence[Instance]) -> Iterator[tuple[Decoding, list[int]]]:
        """Decoding settings with indices of requests, the longest first, up to ``batch_size``
        each.
        """
        groups: dict[Decoding, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(Decoding.from_settings(request.args[2]), []).append(i)
        for decoding, indices in groups.items():
            indices.sort(key=lambda i: (-len(requests[i].args[0]), i))
            for start in range(0, len(indices), self.batch_size):
                yield decoding, indices[start : start + self.batch_size]

    def _encoded(self, request: Instance) -> Encoded:
        """The prompt of the request's document, encoded as in training."""
        _, doc_to_messages, _, doc_id, task, split = request.args
        turns, pictures = turns_and_pictures(doc_to_messages(self.task_dict[task][split][doc_id]))
        return encode_prompt(turns, pictures, self.processor, self.template)

    def _answer(self, prompts: Sequence[Encoded], decoding: Decoding) -> list[str]:
        """Answers to one batch of prompts, padded on the left; in parts where pictures are
        unlike.
        """
        parts = batches_of(prompts)
        if len(parts) > 1:
            found = {
                i: text
                for part in parts
                for i, text in zip(
                    part, self._answer([prompts[i] for i in part], decoding), strict=True
                )
            }
            return [found[i] for i in range(len(prompts))]
        batch = collate(prompts, self.model.generation_config.pad_token_id, side="left")
        inputs = {name: value.to(self.device) for name, value in model_inputs(batch).items()}
        del inputs["labels"]
        for name, value in inputs.items():
            if value.is_floating_point():
                inputs[name] = value.to(self.model.dtype)
        with torch.inference_mode():
            generated = self.model.generate(
                **inputs, max_new_tokens=decoding.max_new_tokens, num_beams=decoding.num_beams
            )
        texts = self.processor.tokenizer.batch_decode(
            generated[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return [decoding.cut(text) for text in texts]

    def _generation_config(self) -> Any:
        """Greedy decoding that ends at the template's end token, whatever the checkpoint's own
        settings say.

        With the model's own chat template, its own end tokens.
        """
        from transformers import GenerationConfig

        tokenizer, pad = self.processor.tokenizer, self.processor.tokenizer.pad_token_id
        if self.template.of_processor:
            ends = end_ids(self.processor, self.model)
            return GenerationConfig(
                do_sample=False, eos_token_id=ends, pad_token_id=ends[0] if pad is None else pad
            )
        end = tokenizer.convert_tokens_to_ids(self.template.end)
        if end is None or end == tokenizer.unk_token_id:
            raise UserError(
                f"template {self.template.name!r} ends answers with {self.template.end!r}, which "
                "is no token of this model's tokenizer. Choose the model's own template."
            )
        return GenerationConfig(
            do_sample=False, eos_token_id=end, pad_token_id=end if pad is None else pad
        )


def with_adapter(model: Any, adapter_dir: Path | None) -> Any:
    """``model`` with the adapter merged into its weights, as LLaVA's own loader does.

    Raises UserError if the folder holds no safetensors of an adapter.
    """
    if adapter_dir is None:
        return model
    if not (adapter_dir / "adapter_model.safetensors").is_file():
        raise UserError(
            f"{adapter_dir} holds no adapter_model.safetensors; expected a PEFT adapter saved as "
            "safetensors (pickled ones are not loaded)."
        )
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(adapter_dir)).merge_and_unload().eval()


def _digest(folder: Path) -> str:
    """SHA-256 over the weights and JSON files of a model or adapter folder."""
    files = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".json"))
    listed = json.dumps([(p.name, sha256_file(p)) for p in files])
    return hashlib.sha256(listed.encode()).hexdigest()
