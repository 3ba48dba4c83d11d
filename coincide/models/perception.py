"""Caption accuracy of the tiny models on scenes and handwriting that they were not trained on."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from coincide.data.demo.captions import any_scene, dense
from coincide.data.demo.world import COLOURS, SHAPES, Scene, draw


def caption_accuracy(model: Any, processor: Any, *, scenes: int, seed: int) -> dict[str, float]:
    """Share of caption words that are predicted correctly (teacher-forced), by kind of word.

    ``colour``, ``shape`` and ``size`` over non-empty cells, ``digit`` and ``letter``; ``loss`` is
    the mean NLL in nats per caption token. Scenes and handwriting are those of the test split.
    """
    import torch

    rng = np.random.Generator(np.random.PCG64([seed, 1]))
    batch = caption_batch([any_scene(rng, "test") for _ in range(scenes)], processor, rng)
    with torch.inference_mode():
        output = model(**batch, use_cache=False)
    predicted = output.logits[:, :-1].argmax(-1)
    labels = batch["labels"][:, 1:]
    right: dict[str, list[bool]] = defaultdict(list)
    kinds = _kinds(processor.tokenizer)
    for guess, truth in zip(predicted[labels != -100], labels[labels != -100], strict=True):
        right[kinds.get(int(truth), "other")].append(bool(guess == truth))
    figures = {kind: round(float(np.mean(hits)), 4) for kind, hits in sorted(right.items())}
    return {**figures, "loss": round(float(output.loss), 4)}


def caption_batch(
    scenes: list[Scene], processor: Any, rng: np.random.Generator, texts: list[str] | None = None
) -> dict[str, Any]:
    """Pictures and captions in the format of LLaVA's stage 1: image, newline, caption, end."""
    texts = [dense(scene) for scene in scenes] if texts is None else texts
    return tokens_and_pixels([draw(scene, rng) for scene in scenes], texts, processor)


def tokens_and_pixels(
    pictures: list[np.ndarray], texts: list[str], processor: Any
) -> dict[str, Any]:
    """Model inputs [B, T] with labels on the captions only."""
    import torch

    tokenizer = processor.tokenizer
    image = tokenizer.convert_tokens_to_ids("<image>")
    patches = (pictures[0].shape[0] // processor.patch_size) ** 2
    head = [tokenizer.bos_token_id, *[image] * patches, *_ids(tokenizer, "\n")]
    rows = [_ids(tokenizer, text + "</s>") for text in texts]
    length = len(head) + max(map(len, rows))
    ids = torch.full((len(rows), length), tokenizer.pad_token_id)
    labels = torch.full((len(rows), length), -100)
    for i, row in enumerate(rows):
        end = len(head) + len(row)
        ids[i, :end] = torch.tensor([*head, *row])
        labels[i, len(head) : end] = torch.tensor(row)
    pixels = as_pixels(np.stack(pictures))
    mask = (ids != tokenizer.pad_token_id).long()
    return {"input_ids": ids, "labels": labels, "attention_mask": mask, "pixel_values": pixels}


def as_pixels(pictures: np.ndarray) -> Any:
    """Convert uint8 [B, H, W, 3] to float32 [B, 3, H, W] in [-1, 1], as the processor does."""
    import torch

    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


def _kinds(tokenizer: Any) -> dict[int, str]:
    """Token id -> kind of caption word."""
    from coincide.data.demo.world import LETTERS, NUMBERS, SIZES, TEXTURES

    names = {
        "colour": COLOURS,
        "shape": (*SHAPES, *TEXTURES, "bar"),
        "size": SIZES,
        "digit": NUMBERS,
        "letter": LETTERS,
        "empty": ("empty",),
    }
    return {_ids(tokenizer, f" {word}")[0]: kind for kind, words in names.items() for word in words}
