"""One pass of CLIP over a dataset: unit embeddings of images and texts, each image encoded once.

The image goes through CLIP's own processor, which crops to the middle where LLaVA pads. A row with
several images has the direction of their mean. A row without an image, or whose text is empty, has
a NaN row: valid, for there is nothing wrong with it, and without a value.

The text of a conversation, ``<image>`` left out, one space between parts, cut at CLIP's limit of 77
tokens, so that of many turns only the first are seen:

- ``dialogue``: ``USER: question ASSISTANT: answer USER: ...``, as Self-Filter has it;
- ``question``: what the human says, as DICS has it;
- ``answer``: what is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from coincide.config import FeaturePass
from coincide.features.extract import Computer, device_of
from coincide.models.template import IMAGE
from coincide.schema import ClipSource, Dataset, DataSource, Example, Signal, UserError
from coincide.store import Build

if TYPE_CHECKING:
    import torch

ROLES = {"human": "USER", "gpt": "ASSISTANT"}


@dataclass(frozen=True)
class ClipPass:
    """What a CLIP pass reads, with what, and how fast."""

    model: ClipSource
    source: DataSource
    options: FeaturePass

    def config(self) -> dict[str, Any]:
        """What of the pass changes the values."""
        return {"dtype": self.model.dtype}

    def computer(self, missing: Sequence[tuple[Signal, Build]], dataset: Dataset) -> Computer:
        """Load CLIP once; return what turns the examples of a shard into their values."""
        from coincide.models.clip import load_clip
        from coincide.models.load import load_processor

        folder = missing[0][1].need(1).path / "model"
        encoder = Encoder(
            load_clip(folder, self.model.dtype, device_of(self.options.device)),
            load_processor(folder),
            self.options.batch_size,
        )
        images = ImagesOnce(encoder, dataset)

        def compute(
            examples: Sequence[Example], progress: Any
        ) -> tuple[list[np.ndarray], np.ndarray]:
            valid = np.array([example.row not in dataset.dropped for example in examples])
            kept = [example for example in examples if example.row not in dataset.dropped]
            values = []
            for signal, _ in missing:
                whole = np.zeros((len(examples), encoder.width), dtype=np.float32)
                if signal.name == "clip_image":
                    whole[valid] = images.of(kept)
                else:
                    form = str(dict(signal.params)["text"])
                    whole[valid] = encoder.texts([text_of(example, form) for example in kept])
                values.append(whole)
            progress.update(len(examples))
            return values, valid

        return compute


def text_of(example: Example, form: str) -> str:
    """The conversation as one text; ``form``: dialogue, question or answer."""
    said = [(turn.role, " ".join(turn.text.replace(IMAGE, " ").split())) for turn in example.turns]
    if form == "question":
        return " ".join(text for role, text in said if role == "human").strip()
    if form == "answer":
        return " ".join(text for role, text in said if role == "gpt").strip()
    if form == "dialogue":
        return " ".join(f"{ROLES[role]}: {text}" for role, text in said if text)
    raise UserError(f"text={form!r}: the choices are dialogue, question, answer.")


@dataclass
class Encoder:
    """CLIP with its processor. Embeddings are float32 rows of unit length."""

    model: Any
    processor: Any
    batch_size: int

    @property
    def width(self) -> int:
        """Columns of an embedding."""
        return int(self.model.config.projection_dim)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings [n, D] of ``texts``, each cut at CLIP's limit; NaN for an empty one."""
        limit = self.model.config.text_config.max_position_embeddings
        found = np.full((len(texts), self.width), np.nan, dtype=np.float32)
        rows = sorted((i for i, text in enumerate(texts) if text), key=lambda i: len(texts[i]))
        for at in range(0, len(rows), self.batch_size):
            here = rows[at : at + self.batch_size]
            batch = self.processor.tokenizer(
                [texts[i] for i in here],
                truncation=True,
                max_length=limit,
                padding=True,
                return_tensors="pt",
                return_token_type_ids=False,
            ).to(self.model.device)
            found[here] = self._units(self.model.get_text_features, **batch)
        return found

    def images(self, pictures: Sequence[Any]) -> np.ndarray:
        """Embeddings [n, D] of PIL images."""
        found = np.empty((len(pictures), self.width), dtype=np.float32)
        for at in range(0, len(pictures), self.batch_size):
            here = list(pictures[at : at + self.batch_size])
            pixels = self.processor.image_processor(here, return_tensors="pt")["pixel_values"]
            pixels = pixels.to(self.model.device, self.model.dtype)
            found[at : at + len(here)] = self._units(
                self.model.get_image_features, pixel_values=pixels
            )
        return found

    def _units(self, forward: Callable[..., Any], **inputs: torch.Tensor) -> np.ndarray:
        import torch

        with torch.inference_mode():
            features = forward(**inputs).pooler_output.double()
        units = features / features.norm(dim=1, keepdim=True)
        if not units.isfinite().all():
            raise UserError(
                "CLIP gives NaN or infinite embeddings in this precision; set clip.dtype=float32."
            )
        return units.float().cpu().numpy()


class ImagesOnce:
    """Embeddings of the images of examples that come in row order; each image is encoded once.

    An embedding is kept until the last row that shows its image has passed.
    """

    def __init__(self, encoder: Encoder, dataset: Dataset) -> None:
        self.encoder = encoder
        self.dataset = dataset
        self.seen: dict[str, np.ndarray] = {}
        self.last = {
            name: example.row
            for example in dataset.examples
            if example.row not in dataset.dropped
            for name in example.images
        }

    def of(self, examples: Sequence[Example]) -> np.ndarray:
        """float32 [n, D]; NaN for an example without an image."""
        shown = {name: example for example in examples for name in example.images}
        new = [name for name in shown if name not in self.seen]
        for at in range(0, len(new), self.encoder.batch_size):
            names = new[at : at + self.encoder.batch_size]
            embedded = self.encoder.images([self._picture(shown[name], name) for name in names])
            self.seen.update(zip(names, embedded, strict=True))
        found = np.full((len(examples), self.encoder.width), np.nan, dtype=np.float32)
        for i, example in enumerate(examples):
            if example.images:
                found[i] = _direction(np.stack([self.seen[name] for name in example.images]))
        for name in shown:
            if self.last[name] <= examples[-1].row:
                del self.seen[name]
        return found

    def _picture(self, example: Example, name: str) -> Any:
        from coincide.models.encode import picture

        return picture(example, self.dataset, name, self.encoder.processor)


def _direction(units: np.ndarray) -> np.ndarray:
    """The unit vector along the sum of the rows of ``units`` [n, D]; of one row, the row."""
    if len(units) == 1:
        return units[0]
    total = units.astype(np.float64).sum(axis=0)
    return total / np.linalg.norm(total)
