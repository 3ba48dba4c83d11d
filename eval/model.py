"""The evaluated model as lmms-eval calls it: an image-text model with adapter, batched and
greedy.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms

from coincide.models.chat import end_ids
from coincide.models.encode import Encoded, collate, encode_prompt, model_inputs
from coincide.models.load import load_model, load_processor
from coincide.models.template import Template
from coincide.schema import UserError
from coincide.system.files import sha256_file
from eval.messages import turns_and_pictures

MAX_NEW_TOKENS = 128
"""Used if the task does not say, as in LLaVA's ``model_vqa_loader.py``."""
NEUTRAL: Mapping[str, Any] = {
    **dict.fromkeys(("max_gen_toks", "max_tokens", "max_length", "bad_words_ids"), None),
    **dict.fromkeys(("min_length", "min_new_tokens", "no_repeat_ngram_size"), 0),
    **dict.fromkeys(("repetition_penalty", "length_penalty", "num_beam_groups"), 1),
    **dict.fromkeys(("penalty_alpha", "forced_eos_token_id", "suppress_tokens"), None),
    **dict.fromkeys(("stop", "stop_strings", "stop_sequences"), None),
}
"""Settings that would change answers -> the value with which they do not. Settings that have no
effect on greedy decoding (``top_p``) or on this model (``image_aspect_ratio``) are not listed."""
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
"""Control characters that an untuned model can produce and that spreadsheets and pages do not
accept (MMBench's task writes a spreadsheet); they are removed from answers."""


@dataclass(frozen=True)
class Decoding:
    """How answers are generated: the part of a task's ``generation_kwargs`` that matters."""

    max_new_tokens: int
    num_beams: int
    until: tuple[str, ...]
    """Stop texts: the answer ends before the first of them."""

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Decoding:
        """From a task's ``generation_kwargs``.

        Raises UserError for sampling (the same model must give the same answers) and for settings
        that would change answers and are not supported.
        """
        warm = float(settings.get("temperature") or 0.0) > 0
        if settings.get("do_sample", warm) and float(settings.get("temperature", 1.0) or 0.0) > 0:
            raise UserError(
                f"generation settings {dict(settings)} ask for sampling; evaluation decodes "
                "greedily. Set generation.do_sample=false for this benchmark."
            )
        foreign = {k: v for k, v in settings.items() if v != NEUTRAL.get(k, v) and v is not None}
        if foreign:
            raise UserError(
                f"generation settings {foreign} change answers and are not supported; supported "
                "are max_new_tokens, num_beams and until. Set generation=... for this benchmark."
            )
        until = settings.get("until") or ()
        return cls(
            int(settings.get("max_new_tokens") or MAX_NEW_TOKENS),
            int(settings.get("num_beams") or 1),
            (until,) if isinstance(until, str) else tuple(text for text in until if text),
        )

    def cut(self, answer: str) -> str:
        """``answer`` up to the first stop text, without control characters."""
        for text in self.until:
            answer = answer.partition(text)[0]
        return _CONTROL.sub("", answer).strip()


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
        dtype: str = "float32",
        device: str = "auto",
        answered: Callable[[int], None] = lambda count: None,
    ) -> None:
        """``answered`` is called with the number of answers after every batch."""
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
        self.model = with_adapter(
            load_model(model_dir, getattr(torch, dtype), self.device), adapter_dir
        )
        self.model.generation_config = self._generation_config()

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
        """Answers to one batch of prompts, padded on the left."""
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
    """``model`` with the adapter merged into its weights, as LLaVA's own loader does."""
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
