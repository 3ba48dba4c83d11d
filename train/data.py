"""Training examples of one rank: encoded rows of the subset, and the filler row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from coincide.data.columns import pictured
from coincide.data.llava_json import read
from coincide.models.encode import IGNORE, Encoded, collate, encode, length_of, model_inputs
from coincide.models.template import TEMPLATES
from coincide.schema import Dataset, Example, Turn
from train.job import TrainingJob
from train.sampler import FILLER, micro_batches, plan

if TYPE_CHECKING:
    from collections.abc import Callable


def open_subset(job: TrainingJob) -> Dataset:
    """The subset as a dataset: row i is its i-th example."""
    dataset = read(
        Path(job.annotations),
        Path(job.image_root),
        name="subset",
        on_missing_image="blank" if job.blank_rows else "error",
        tags_as_text=True,  # as the dataset, whose policy let the row pass, says
    )
    return replace(dataset, blank_images=frozenset((*job.blank_rows, *dataset.blank_images)))


KEPT = 1 << 30
"""Bytes of encoded examples that are kept for the next epoch."""


class EncodedExamples(TorchDataset[Encoded]):
    """Dataset of the subset's examples, encoded when first accessed, and kept up to ``keep`` bytes.

    Index ``FILLER`` gives the filler row.
    """

    def __init__(
        self, dataset: Dataset, processor: Any, template: str, max_length: int, keep: int = 0
    ) -> None:
        self.dataset = dataset
        self._kept: dict[int, Encoded] = {}
        self._left = keep
        self.processor = processor
        self.template = TEMPLATES[template]
        self.max_length = max_length
        self.filler = self._filler()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> Encoded:
        if row == FILLER:
            return self.filler
        if row in self._kept:
            return self._kept[row]
        encoded = self._encode(self.dataset.examples[row], self.dataset)
        size = _bytes_of(encoded)
        if size <= self._left:
            self._kept[row] = encoded
            self._left -= size
        return encoded

    def _encode(self, example: Example, dataset: Dataset) -> Encoded:
        return encode(example, dataset, self.processor, self.template, self.max_length)

    def _filler(self) -> Encoded:
        """A row with one blank image and no answer token: it runs through all modules and adds a
        loss of 0.
        """
        turns = (Turn("human", "<image>"), Turn("gpt", "."))
        blank = Example(FILLER, "filler", ("<blank>",), turns, "")
        dataset = replace(self.dataset, blank_images=self.dataset.blank_images | {FILLER})
        encoded = self._encode(blank, dataset)
        return replace(encoded, labels=torch.full_like(encoded.labels, IGNORE))


def _bytes_of(encoded: Encoded) -> int:
    masks = (encoded.input_ids, encoded.labels, encoded.image_mask, encoded.text_mask)
    return sum(t.nbytes for t in (*masks, *encoded.extra.values(), *encoded.by_picture.values()))


def collator(
    filler: Encoded, pad_id: int
) -> Callable[[Sequence[Encoded]], dict[str, torch.Tensor]]:
    """A function that makes batches for the model.

    A batch has ``input_ids``, ``labels``, ``attention_mask`` [B, T], ``pixel_values`` [n, 3, H, W],
    and the further inputs of models of other families than LLaVA. A micro-batch without any image
    gets the filler row, so that vision tower and projector run on every rank at every step: under
    ZeRO-3 the others would wait forever for a rank that skips them, and the optimizer would treat
    the projector differently.
    """

    def together(examples: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        rows = list(examples)
        if not any(row.sees for row in rows):
            rows.append(filler)
        return model_inputs(collate(rows, pad_id))

    return together


def loader(job: TrainingJob, dataset: Dataset, processor: Any, rank: int) -> DataLoader[Any]:
    """A DataLoader over all micro-batches of ``rank`` for the whole run, epoch after epoch."""
    recipe = job.recipe
    lengths = np.array([length_of(example) for example in dataset.examples])
    text_only = ~pictured(dataset.examples)
    batches = plan(
        text_only,
        recipe.global_batch,
        job.seed,
        epochs=recipe.epochs,
        group=recipe.group_by_modality_length,
        max_steps=recipe.max_steps,
        rows=np.load(job.rows, allow_pickle=False) if recipe.order == "rows" else None,
    )
    mine = [
        micro
        for batch in batches
        for micro in micro_batches(
            batch,
            np.abs(lengths),
            global_batch=recipe.global_batch,
            micro_batch=job.micro_batch,
            rank=rank,
            world_size=job.world_size,
        )
    ]
    keep = KEPT if recipe.epochs > 1 and not recipe.workers else 0
    examples = EncodedExamples(dataset, processor, job.template, job.max_length, keep)
    return DataLoader(
        examples,
        batch_sampler=mine,
        collate_fn=collator(examples.filler, processor.tokenizer.pad_token_id),
        num_workers=recipe.workers,
        generator=torch.Generator().manual_seed(job.seed),
        pin_memory=torch.cuda.is_available(),
    )
