"""How answers are generated: the generation settings of lmms-eval's tasks that matter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coincide.schema import UserError

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
