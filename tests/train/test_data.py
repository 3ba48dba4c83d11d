"""What a rank feeds to the model: labels, the filler row, text-only batches."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from coincide.models.encode import Encoded
from coincide.models.load import load_model, load_processor
from tests.tiny_llava import make_tiny_llava
from tests.train.test_launch import job as stand_in
from tests.train.tiny import ROWS, TINY, make_rows
from train.data import EncodedExamples, collator, loader, open_subset
from train.job import TrainingJob
from train.recipe import Recipe
from train.sampler import FILLER


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    root = tmp_path_factory.mktemp("rows")
    (root / "subset.json").write_text(json.dumps(make_rows(root)))
    return stand_in(
        root,
        model=str(make_tiny_llava(root)),
        annotations=str(root / "subset.json"),
        image_root=str(root),
        max_length=128,
        micro_batch=4,
        accumulation=2,
        recipe=Recipe(**TINY),
    )


@pytest.fixture(scope="module")
def examples(job: TrainingJob) -> EncodedExamples:
    return EncodedExamples(open_subset(job), load_processor(Path(job.model)), "tiny", 128)


def answers(encoded: Encoded, examples: EncodedExamples) -> str:
    learnt = encoded.input_ids[encoded.labels != -100]
    return examples.processor.tokenizer.decode(learnt)


def test_labels_are_the_answers_alone(examples: EncodedExamples) -> None:
    assert answers(examples[0], examples).split("</s>") == [" red circle", ""]
    two_turns = examples[1]
    assert answers(two_turns, examples).split("</s>") == [" red circle", " 3 . yes", ""]
    kept = two_turns.labels != -100
    assert torch.equal(two_turns.labels[kept], two_turns.input_ids[kept])
    assert not (kept & two_turns.image_mask).any()


def test_filler_is_an_image_that_teaches_nothing(examples: EncodedExamples) -> None:
    filler = examples[FILLER]
    assert filler.pixel_values is not None
    assert filler.image_mask.any()
    assert (filler.labels == -100).all()


def test_a_text_only_batch_still_has_an_image(examples: EncodedExamples) -> None:
    together = collator(examples.filler, pad_id=0)
    text = [examples[0], examples[3]]
    assert all(row.pixel_values is None for row in text)
    batch = together(text)
    assert batch["pixel_values"].shape[0] == 1
    assert batch["input_ids"].shape[0] == 3
    assert (batch["labels"][2] == -100).all()
    mixed = together([examples[0], examples[1]])
    assert mixed["pixel_values"].shape[0] == 1
    assert mixed["input_ids"].shape[0] == 2


def test_filler_changes_no_loss_and_reaches_the_projector(
    examples: EncodedExamples, job: TrainingJob
) -> None:
    from train.trainer import answer_loss

    model = load_model(Path(job.model), torch.float32, "cpu")
    with_filler = collator(examples.filler, pad_id=0)([examples[0], examples[3]])
    alone = {k: v[:2] for k, v in with_filler.items() if k != "pixel_values"}

    def loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        inputs = {k: v for k, v in batch.items() if k != "labels"}
        return answer_loss(model(**inputs), batch["labels"], torch.tensor(10))

    torch.testing.assert_close(loss(with_filler), loss(alone))
    loss(with_filler).backward()
    gradient = model.model.multi_modal_projector.linear_1.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() == 0


def test_ranks_together_see_every_example_once_an_epoch(job: TrainingJob) -> None:
    processor = load_processor(Path(job.model))
    two = replace(job, world_size=2, accumulation=1)
    shares = [list(loader(two, open_subset(two), processor, r).batch_sampler) for r in (0, 1)]
    assert len(shares[0]) == len(shares[1]) == 12
    seen = [row for share in shares for micro in share for row in micro if row != FILLER]
    assert sorted(seen) == sorted([*range(ROWS)] * 2)


def test_blank_rows_have_a_blank_image(job: TrainingJob, tmp_path: Path) -> None:
    rows = json.loads(Path(job.annotations).read_text())
    rows[1]["image"] = "images/lost.png"
    (tmp_path / "subset.json").write_text(json.dumps(rows))
    lost = replace(
        job, annotations=str(tmp_path / "subset.json"), image_root=job.image_root, blank_rows=(1,)
    )
    dataset = open_subset(lost)
    assert dataset.blank_images == {1}
    blank = EncodedExamples(dataset, load_processor(Path(job.model)), "tiny", 128)[1]
    assert blank.pixel_values is not None
    assert blank.pixel_values.std() < 0.1
