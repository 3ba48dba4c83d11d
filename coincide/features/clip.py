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

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coincide.config import FeaturePass
from coincide.features.decode import Ordered, decoding
from coincide.features.extract import Computer, check_dtype
from coincide.models.template import IMAGE
from coincide.schema import ClipSource, Dataset, DataSource, Example, Signal, UserError

if TYPE_CHECKING:
    import torch

ROLES = {"human": "USER", "gpt": "ASSISTANT"}


@dataclass(frozen=True)
class ClipPass:
    """What a CLIP pass reads, with what, and how fast."""

    model: ClipSource
    source: DataSource
    options: FeaturePass

    def __post_init__(self) -> None:
        check_dtype(self.model.dtype, "clip.dtype")

    def config(self) -> dict[str, Any]:
        """What of the pass changes the values."""
        return {"dtype": self.model.dtype}

    @contextmanager
    def computer(
        self,
        signals: Sequence[Signal],
        folder: Path,
        dataset: Dataset,
        device: str,
        decoders: int,
    ) -> Iterator[Computer]:
        """Load CLIP once; what turns the examples of a shard into their values."""
        from coincide.models.clip import load_clip
        from coincide.models.load import load_processor

        processor = load_processor(folder)
        with decoding(PixelReader(dataset, processor), decoders) as ordered:
            model = load_clip(folder, self.model.dtype, device)
            encoder = Encoder(model, processor, self.options.batch_size)
            images = ImagesOnce(encoder, dataset, ordered)

            def compute(
                examples: Sequence[Example], told: Callable[[int], None]
            ) -> tuple[list[np.ndarray], np.ndarray]:
                valid = np.array([example.row not in dataset.dropped for example in examples])
                kept = [example for example in examples if example.row not in dataset.dropped]
                values = []
                for signal in signals:
                    whole = np.zeros((len(examples), encoder.width), dtype=np.float32)
                    if signal.name == "clip_image":
                        whole[valid] = images.of(kept)
                    else:
                        form = str(dict(signal.params)["text"])
                        whole[valid] = encoder.texts([text_of(e, form) for e in kept])
                    values.append(whole)
                told(len(examples))
                return values, valid

            yield compute


@dataclass(frozen=True)
class PixelReader:
    """(row, image) of a dataset -> what CLIP sees, float32 [3, H, W]."""

    dataset: Dataset
    processor: Any

    def __call__(self, task: tuple[int, str]) -> np.ndarray:
        from coincide.models.encode import picture

        example, name = self.dataset.examples[task[0]], task[1]
        image = picture(example, self.dataset, name, self.processor)
        found: np.ndarray = self.processor.image_processor([image], return_tensors="np")[
            "pixel_values"
        ][0]
        return found


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
        found = np.full((len(texts), self.width), np.nan, dtype=np.float32)
        rows = sorted((i for i, text in enumerate(texts) if text), key=lambda i: len(texts[i]))
        at = 0
        while at < len(rows):
            here = rows[at : at + self.batch_size]
            done = self._within_memory(self._texts, [texts[i] for i in here])
            found[here[: len(done)]] = done
            at += len(done)
        return found

    def images(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Embeddings [n, D] of images as CLIP sees them, at most ``batch_size`` of them."""
        found = []
        while len(pixels):
            found.append(self._within_memory(self._images, pixels))
            pixels = pixels[len(found[-1]) :]
        return np.concatenate(found)

    def _texts(self, texts: Sequence[str]) -> np.ndarray:
        batch = self.processor.tokenizer(
            list(texts),
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            padding=True,
            return_tensors="pt",
            return_token_type_ids=False,
        ).to(self.model.device)
        return self._units(self.model.get_text_features, **batch)

    def _images(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        import torch

        tensor = torch.from_numpy(np.stack(pixels)).to(self.model.device, self.model.dtype)
        return self._units(self.model.get_image_features, pixel_values=tensor)

    def _within_memory(
        self, embed: Callable[[Sequence[Any]], np.ndarray], items: Sequence[Any]
    ) -> np.ndarray:
        """Embeddings of the first ``items``: of all, or of as many as the GPU has memory for."""
        import torch

        try:
            return embed(items)
        except torch.OutOfMemoryError:
            if len(items) == 1:
                raise
        self.batch_size = len(items) // 2
        print(
            f"features: {self.model.device} is out of memory with {len(items)} rows of CLIP; going "
            f"on with {self.batch_size}",
            flush=True,
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return self._within_memory(embed, items[: self.batch_size])

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
    """Embeddings of the images of examples that come shard by shard; each is encoded once.

    An embedding is kept until the last row that shows its image has passed; another worker may
    encode an image again that its own shards show.
    """

    def __init__(self, encoder: Encoder, dataset: Dataset, ordered: Ordered) -> None:
        self.encoder = encoder
        self.ordered = ordered
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
        pixels = self.ordered([(shown[name].row, name) for name in new])
        while here := list(islice(pixels, self.encoder.batch_size)):
            names, new = new[: len(here)], new[len(here) :]
            self.seen.update(zip(names, self.encoder.images(here), strict=True))
        found = np.full((len(examples), self.encoder.width), np.nan, dtype=np.float32)
        for i, example in enumerate(examples):
            if example.images:
                found[i] = _direction(np.stack([self.seen[name] for name in example.images]))
        if examples:
            over = [name for name in self.seen if self.last[name] <= examples[-1].row]
            for name in over:
                del self.seen[name]
        return found


def _direction(units: np.ndarray) -> np.ndarray:
    """The unit vector along the sum of the rows of ``units`` [n, D]; of one row, the row."""
    if len(units) == 1:
        return units[0]
    total = units.astype(np.float64).sum(axis=0)
    return total / np.linalg.norm(total)
