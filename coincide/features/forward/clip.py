"""CLIP over the examples of a shard: unit embeddings of images and texts, each image encoded once.

An example without an image, or with an empty text, gets a row of NaN. The row is valid: nothing is
wrong with the example, it just has no such embedding.
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
from coincide.features.engine.ahead import Ordered, decoding
from coincide.features.engine.contract import Computer
from coincide.features.forward.contract import EmbeddingSignal
from coincide.schema import Dataset, Example, UserError

if TYPE_CHECKING:
    import torch


@contextmanager
def clip_computer(
    dtype: str,
    options: FeaturePass,
    signals: Sequence[EmbeddingSignal],
    folder: Path,
    dataset: Dataset,
    device: str,
    decoders: int,
) -> Iterator[Computer]:
    """Load CLIP from ``folder`` in ``dtype`` on ``device``; yields the :data:`Computer` of a shard.

    ``signals`` are computed together; ``decoders`` processes read the pictures ahead.
    """
    from coincide.models.clip import load_clip
    from coincide.models.load import load_processor

    processor = load_processor(folder)
    with decoding(PixelReader(dataset, processor), decoders) as ordered:
        model = load_clip(folder, dtype, device)
        encoder = ClipEncoder(model, processor, options.batch_size)
        encoder.shown = ImagesOnce(encoder, dataset, ordered)

        def compute(
            examples: Sequence[Example], progress: Callable[[int], None]
        ) -> tuple[list[np.ndarray], np.ndarray]:
            valid = np.array([example.row not in dataset.dropped for example in examples])
            kept = [example for example in examples if example.row not in dataset.dropped]
            values = []
            for signal in signals:
                whole = np.zeros((len(examples), signal.width(encoder.width)), dtype=np.float32)
                whole[valid] = signal.embed(encoder, kept)
                values.append(whole)
            progress(len(examples))
            return values, valid

        yield compute


@dataclass(frozen=True)
class PixelReader:
    """``reader((row, image name))``: that image as CLIP's processor gives it, float32 [3, H, W]."""

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


@dataclass
class ClipEncoder:
    """CLIP and its processor. Embeddings are float32 rows of unit length. See :class:`Embedder`.

    ``batch_size`` is halved when the GPU runs out of memory.
    """

    model: Any
    processor: Any
    batch_size: int
    shown: ImagesOnce | None = None
    """Embeddings of the images of the current shard; set by the pass."""

    @property
    def width(self) -> int:
        """Columns D of an embedding."""
        return int(self.model.config.projection_dim)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings float32 [n, D] of ``texts``, cut at CLIP's token limit.

        NaN for an empty text.
        """
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
        """Embeddings float32 [n, D] of ``pixels``, n arrays [3, H, W] from :class:`PixelReader`."""
        found = []
        while len(pixels):
            found.append(self._within_memory(self._images, pixels))
            pixels = pixels[len(found[-1]) :]
        return np.concatenate(found)

    def images_of(self, examples: Sequence[Example]) -> np.ndarray:
        """Embedding [n, D] of each example's image.

        Of several images, their mean scaled to unit length. NaN for an example without an image.
        """
        assert self.shown is not None, "no pass is running"
        return self.shown.embed(examples)

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
        """Embeddings of the first ``items``: of all, or of as many as fit the GPU's memory."""
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
    """Image embeddings of examples that arrive shard by shard.

    Each image is encoded once per worker. An embedding is kept until the last row that shows its
    image is done.
    """

    def __init__(self, encoder: ClipEncoder, dataset: Dataset, ordered: Ordered) -> None:
        self.encoder = encoder
        self.ordered = ordered
        self.seen: dict[str, np.ndarray] = {}
        self.last = {
            name: example.row
            for example in dataset.examples
            if example.row not in dataset.dropped
            for name in example.images
        }

    def embed(self, examples: Sequence[Example]) -> np.ndarray:
        """Embedding float32 [n, D] of each example's image(s); NaN for an example without one."""
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
    """The sum of the rows of ``units`` [n, D], scaled to unit length; a single row as it is."""
    if len(units) == 1:
        return units[0]
    total = units.astype(np.float64).sum(axis=0)
    return total / np.linalg.norm(total)
