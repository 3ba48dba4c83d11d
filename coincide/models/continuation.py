"""Token ids of a given answer as they would stand behind a prompt, as finetuning teaches them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from coincide.models.answers import rendered_answers, rendering
from coincide.models.chat import messages_of
from coincide.models.template import Template
from coincide.schema import Turn, UserError

TAIL = 16
"""Characters of the prompt's end before which an answer is tokenised, so that its first token is
the one of a text that goes on."""


@dataclass
class Continuations:
    """Answers to prompts of ``template``, tokenised behind the end of such a prompt."""

    processor: Any
    template: Template
    _known: dict[str, torch.Tensor] = field(default_factory=dict)
    _between: tuple[str, str] | None = None

    def ids(self, text: str) -> torch.Tensor:
        """int64 [T], without the token that ends an answer."""
        if text not in self._known:
            tail, lead = self._behind()
            before, whole = self._tokens(tail), self._tokens(f"{tail}{lead}{text}")
            same = whole[: len(before)] == before
            found = whole[len(before) :] if same else self._tokens(f"{lead}{text}")
            self._known[text] = torch.tensor(found, dtype=torch.int64)
        return self._known[text]

    def _tokens(self, text: str) -> list[int]:
        found: list[int] = self.processor.tokenizer(text, add_special_tokens=False).input_ids
        return found

    def _behind(self) -> tuple[str, str]:
        """The end of a prompt, and what the template puts between it and an answer."""
        if self._between is None:
            own = not self.template.of_processor
            self._between = (f"{self.template.assistant}:", " ") if own else self._of_the_model()
        return self._between

    def _of_the_model(self) -> tuple[str, str]:
        asked, answer = Turn("human", "a"), Turn("gpt", "b")
        prompt = rendering(self.processor, messages_of([asked]), asking=True)
        try:
            turns = [asked, answer]
            whole, spans = rendered_answers(self.processor, turns, messages_of(turns))
        except UserError:
            return prompt[-TAIL:], ""
        if not spans or not whole.startswith(prompt):
            return prompt[-TAIL:], ""
        behind = whole[len(prompt) : spans[-1][1]]
        return prompt[-TAIL:], behind[: max(0, behind.find(answer.text))]
