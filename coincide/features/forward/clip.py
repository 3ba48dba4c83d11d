"""CLIP, a vision tower or a text encoder over the examples of a shard: unit embeddings, each image
encoded once.

An example without an image, or with an empty text, gets a row of NaN. The row is valid: nothing is
wrong with the example, it just has no such embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from coincide.config import FeaturePass
from coincide.data.columns import shown as pictures_of
from coincide.data.reasons import rows_of
from coincide.features.engine.ahead import Ordered, decoding
from coincide.features.engine.contract import Computer, WorkerSite
from coincide.features.forward.contract import EmbeddingSignal
from coincide.schema import Dataset, Example, UserError

if TYPE_CHECKING:
    import torch


@contextmanager
def clip_computer(
    dtype: str,
    options: FeaturePass,
    signals: Sequence[EmbeddingSignal],
    site: WorkerSite,
) -> Iterator[Computer]:
    """Load CLIP in ``dtype`` as ``site`` says; yields the :data:`Computer` of a shard.

    ``signals`` are computed together.
    """
    from coincide.models.clip import load_clip
    from coincide.models.load import load_processor

    dataset, processor = site.dataset, load_processor(site.model)
    with decoding(PixelReader(dataset, processor), site.decoders) as ordered:
        model = load_clip(site.model, dtype, site.device)
        encoder = ClipEncoder(model, processor, options.batch_size)
        encoder.shown = ImagesOnce(encoder, dataset, ordered)
        yield partial(_compute, signals, encoder, dataset)


@contextmanager
def tower_computer(
    dtype: str,
    options: FeaturePass,
    signals: Sequence[EmbeddingSignal],
    site: WorkerSite,
) -> Iterator[Computer]:
    """The same with a vision tower, for signals of images alone."""
    from coincide.models.vision import load_image_processor, load_tower

    dataset = site.dataset
    processor = SimpleNamespace(image_processor=load_image_processor(site.model))
    with decoding(PixelReader(dataset, processor), site.decoders) as ordered:
        tower = load_tower(site.model, dtype, site.device)
        encoder = ImageEncoder(tower, processor, options.batch_size)
        encoder.shown = ImagesOnce(encoder, dataset, ordered)
        yield partial(_compute, signals, encoder, dataset)


@contextmanager
def text_computer(
    dtype: str,
    options: FeaturePass,
    signals: Sequence[EmbeddingSignal],
    site: WorkerSite,
) -> Iterator[Computer]:
    """The same with a text encoder, for signals of texts alone; no image is read."""
    from coincide.models.sentence import load_text_encoder

    loaded = load_text_encoder(site.model, dtype, site.device)
    encoder = SentenceEncoder(loaded, loaded, options.batch_size)
    yield partial(_compute, signals, encoder, site.dataset)


def _compute(
    signals: Sequence[EmbeddingSignal],
    encoder: Any,
    dataset: Dataset,
    examples: Sequence[Example],
    progress: Callable[[int], None],
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


@dataclass(frozen=True)
class PixelReader:
    """``reader((row, image name))``: that image as the processor gives it, float32 [3, H, W]."""

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
class ImageEncoder:
    """A model of images and its processor. Embeddings are float32 rows of unit length.

    ``batch_size`` is halved when the GPU runs out of memory.
    """

    model: Any
    processor: Any
    batch_size: int
    shown: ImagesOnce | None = None
    """Embeddings of the images of the current shard; set by the pass."""
    group: ClassVar[str] = "vision"
    """Config group of the model."""

    @property
    def width(self) -> int:
        """Columns of an embedding."""
        return int(self.model.width)

    def images(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Embeddings float32 [n, D] of ``pixels``, n arrays [3, H, W] from :class:`PixelReader`."""
        found = []
        while len(pixels):
            found.append(self._within_memory(self._images, pixels))
            pixels = pixels[len(found[-1]) :]
        return np.concatenate(found)

    def images_of(self, examples: Sequence[Example]) -> np.ndarray:
        """Embedding [n, D] of each example's image; of several images, their mean scaled to unit
        length.

        NaN for an example without an image.
        """
        assert self.shown is not None, "no pass is running"
        return self.shown.embed(examples)

    def _embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """[n, D], of any norm."""
        found: torch.Tensor = self.model(pixels)
        return found

    def _images(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        import torch

        tensor = torch.from_numpy(np.stack(pixels)).to(self.model.device, self.model.dtype)
        with torch.inference_mode():
            return self._units(self._embed(tensor))

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
            f"features: {self.model.device} is out of memory with {len(items)} rows of "
            f"{self.group}; going on with {self.batch_size}",
            flush=True,
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return self._within_memory(embed, items[: self.batch_size])

    def _units(self, features: torch.Tensor) -> np.ndarray:
        features = features.double()
        units = features / features.norm(dim=1, keepdim=True)
        if not units.isfinite().all():
            raise UserError(
                f"{self.group} gives NaN or infinite embeddings in this precision; set "
                f"{self.group}.dtype=float32."
            )
        return units.float().cpu().numpy()


class ClipEncoder(ImageEncoder):
    """CLIP and its processor. See :class:`Embedder`."""

    group: ClassVar[str] = "clip"

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

    @property
    def limit(self) -> int:
        """Most tokens of a text."""
        return int(self.model.config.text_config.max_position_embeddings)

    def _embed(self, pixels: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.model.get_image_features(pixel_values=pixels).pooler_output
        return found

    def _embed_texts(self, batch: Any) -> torch.Tensor:
        """[n, D] of a tokenized batch, of any norm."""
        found: torch.Tensor = self.model.get_text_features(**batch).pooler_output
        return found

    def _texts(self, texts: Sequence[str]) -> np.ndarray:
        import torch

        batch = self.processor.tokenizer(
            list(texts),
            truncation=True,
            max_length=self.limit,
            padding=True,
            return_tensors="pt",
            return_token_type_ids=False,
        ).to(self.model.device)
        with torch.inference_mode():
            return self._units(self._embed_texts(batch))


class SentenceEncoder(ClipEncoder):
    """A text encoder and its tokenizer."""

    group: ClassVar[str] = "sentence"

    @property
    def width(self) -> int:
        """Columns D of an embedding."""
        return int(self.model.width)

    @property
    def limit(self) -> int:
        """Most tokens of a text."""
        return int(self.model.limit)

    def _embed_texts(self, batch: Any) -> torch.Tensor:
        found: torch.Tensor = self.model(batch)
        return found


class ImagesOnce:
    """Image embeddings of examples that arrive shard by shard.

    Each image is encoded once per worker. An embedding is kept until the last row that shows its
    image is done.
    """

    def __init__(self, encoder: ImageEncoder, dataset: Dataset, ordered: Ordered) -> None:
        self.encoder = encoder
        self.ordered = ordered
        self.seen: dict[str, np.ndarray] = {}
        self.until: dict[str, int] = {}
        """Image of ``seen`` -> the last row that shows it."""
        found = pictures_of(dataset.examples)
        self._codes, self._starts = found.codes, found.starts
        kept = np.ones(len(dataset), dtype=bool)
        kept[rows_of(dataset.dropped)] = False
        rows = found.row_of
        self._last = np.full(len(found.names), -1, np.int32)
        np.maximum.at(self._last, self._codes[kept[rows]], rows[kept[rows]])

    def embed(self, examples: Sequence[Example]) -> np.ndarray:
        """Embedding float32 [n, D] of each example's image(s); NaN for an example without one."""
        shown = {name: example for example in examples for name in example.images}
        for example in examples:
            codes = self._codes[self._starts[example.row] : self._starts[example.row + 1]]
            self.until.update(zip(example.images, self._last[codes].tolist(), strict=True))
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
            over = [name for name in self.seen if self.until[name] <= examples[-1].row]
            for name in over:
                del self.seen[name], self.until[name]
        return found


def _direction(units: np.ndarray) -> np.ndarray:
    """The sum of the rows of ``units`` [n, D], scaled to unit length; a single row as it is."""
    if len(units) == 1:
        return units[0]
    total = units.astype(np.float64).sum(axis=0)
    return total / np.linalg.norm(total)
