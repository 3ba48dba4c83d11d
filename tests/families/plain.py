"""What transformers itself makes of the rows, one at a time: the truth for the stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from coincide.models.chat import messages_of
from coincide.models.decoder import decoder_of
from coincide.schema import Dataset, Example

DTYPE = torch.float64


@dataclass
class Plain:
    """A model and its processor, loaded without this project's code."""

    model: Any
    processor: Any

    @classmethod
    def load(cls, folder: Path) -> Plain:
        from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

        processor = AutoProcessor.from_pretrained(folder)
        images = AutoImageProcessor.from_pretrained(folder, backend="pil")
        processor.image_processor = images
        model = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=DTYPE, experts_implementation="eager"
        )
        return cls(model.eval(), processor)

    def inputs(self, example: Example, dataset: Dataset, *, asking: bool = False) -> dict[str, Any]:
        """The row as the processor's own chat call encodes it; ``asking``: up to its first
        answer.
        """
        messages = messages_of(example.turns[:1] if asking else example.turns)
        pictures = (Image.open(dataset.image_root / name) for name in example.images)
        for part in (part for message in messages for part in message["content"]):
            if part["type"] == "image":
                part["image"] = next(pictures).convert("RGB")
        found = self.processor.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_tensors="pt",
            add_generation_prompt=asking,
        )  # fmt: skip
        return {name: value for name, value in found.items() if name != "labels"}

    def forward(self, inputs: Mapping[str, Any], attention: list[Any]) -> Any:
        """The output for one row, hidden states included; ``attention`` modules are listened to,
        and what each gave is put in its place.
        """

        def keep(place: int) -> Any:
            def hook(module: Any, given: Any, output: Any) -> None:
                attention[place] = output[0] if isinstance(output, tuple) else output

            return hook

        handles = [m.register_forward_hook(keep(i)) for i, m in enumerate(list(attention))]
        try:
            with torch.no_grad():
                return self.model(**self.typed(inputs), use_cache=False, output_hidden_states=True)
        finally:
            for handle in handles:
                handle.remove()

    def feature_places(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """bool [T]: tokens whose embedding, as the decoder is given it, is not the vocabulary's."""
        given: list[Any] = []
        decoder = decoder_of(self.model)
        handle = decoder.register_forward_pre_hook(
            lambda module, places, named: given.append(named["inputs_embeds"]), with_kwargs=True
        )
        with torch.no_grad():
            self.model(**self.typed(inputs), use_cache=False)
            handle.remove()
            # tokens beyond the vocabulary stand for features alone
            ids = inputs["input_ids"].clamp(
                max=self.model.get_input_embeddings().weight.shape[0] - 1
            )
            plain = self.model.get_input_embeddings()(ids)
        return ((given[0] - plain).abs().amax(dim=-1) > 0)[0]

    def answer(self, inputs: Mapping[str, Any], tokens: int) -> list[int]:
        """Greedy token ids behind the prompt ``inputs``."""
        pad = self.processor.tokenizer.pad_token_id
        with torch.no_grad():
            found = self.model.generate(
                **self.typed(inputs), max_new_tokens=tokens, do_sample=False, pad_token_id=pad
            )
        return list(found[0, inputs["input_ids"].shape[1] :].tolist())

    def typed(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: value.to(DTYPE) if torch.is_tensor(value) and value.is_floating_point() else value
            for name, value in inputs.items()
        }
