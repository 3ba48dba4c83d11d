"""Batches of models of other families reach their forward whole, text-only ones too."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from coincide.models.load import load_model, load_processor
from tests.tiny_chat import FAMILIES, make_tiny_chat
from tests.train.test_launch import job as stand_in
from tests.train.tiny import make_rows
from train.data import EncodedExamples, collator, open_subset
from train.sampler import FILLER


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_on_its_batches(tmp_path: Path, family: str) -> None:
    (tmp_path / "subset.json").write_text(json.dumps(make_rows(tmp_path)))
    folder = make_tiny_chat(family, tmp_path)
    job = replace(
        stand_in(tmp_path), model=str(folder), annotations=str(tmp_path / "subset.json"),
        image_root=str(tmp_path), template="chat", max_length=512,
    )  # fmt: skip
    processor = load_processor(folder)
    rows = EncodedExamples(open_subset(job), processor, job.template, job.max_length)
    together = collator(rows[FILLER], processor.tokenizer.pad_token_id)
    model = load_model(folder, torch.float32, "cpu").train()
    text_only = [r for r in (rows[i] for i in range(len(rows))) if r.pixel_values is None]
    for batch in (together([rows[i] for i in range(4)]), together(text_only[:2])):
        assert "pixel_values" in batch, "the filler brings one"
        model.zero_grad()
        model(**batch).loss.backward()
        towers = [p.grad for n, p in model.named_parameters() if "language" not in n]
        assert any(grad is not None for grad in towers)
