"""What plain transformers says of a row: every signal, one unpadded row at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from coincide.models.encode import encode
from coincide.models.load import load_model, load_processor
from coincide.models.template import TEMPLATES
from coincide.schema import Example
from tests.features.conftest import Model, Source, rows

FEW = 13
"""Rows that every signal is compared with plain transformers on; they hold all odd ones."""


def signals_of_rows(folder: Path, source: Source, model: Model) -> dict[int, dict[str, np.ndarray]]:
    """Row -> name -> value, by the model in ``folder``."""
    processor = load_processor(folder)
    network = load_model(folder, dtype=torch.float64, device="cpu")
    dataset = source.open(Path())
    seen: list[torch.Tensor] = []
    neurons: list[torch.Tensor] = []
    for layer in network.model.language_model.layers:
        layer.self_attn.o_proj.register_forward_hook(lambda m, i, out: seen.append(out[0]))
        layer.mlp.down_proj.register_forward_hook(lambda m, i, out: neurons.append(i[0][0]))
    found = {}
    for example in rows():
        e = encode(example, dataset, processor, TEMPLATES[model.template], model.max_length)
        seen.clear()
        neurons.clear()
        with torch.no_grad():
            output = network(
                input_ids=e.input_ids[None],
                labels=e.labels[None],
                pixel_values=None if e.pixel_values is None else e.pixel_values.double(),
                output_hidden_states=True,
            )
        parts = []
        for out in seen:
            for mask in (e.image_mask, e.text_mask):
                mean = torch.tanh(out[mask].mean(0)) if mask.any() else torch.zeros(out.shape[1])
                parts.append(mean / mean.norm() if mask.any() else mean)
        joined = torch.cat(parts)
        states = output.hidden_states[-1][0]
        found[example.row] = {
            "activations": (joined / joined.norm()).numpy(),
            "hidden_last": states[-1].numpy(),
            "hidden_mean": states.mean(0).numpy(),
            "nll": np.asarray(output.loss.item()),
            "answers": np.asarray(int((e.labels[1:] != -100).sum())),
        }
        if example.row >= FEW:
            continue
        found[example.row] |= glances(e, output.hidden_states[1][0], states, neurons)
        kept = ~e.image_mask
        found[example.row] |= {
            "blind": loss_of(network, e.input_ids[kept], e.labels[kept], None),
            "unasked": loss_of(network, *answers_alone(example, processor), e.pixel_values),
            "masked": loss_of(network, *one_token_an_image(e)),
        }
    network.set_attn_implementation("eager")
    for example in rows()[:FEW]:
        e = encode(example, dataset, processor, TEMPLATES[model.template], model.max_length)
        pixels = None if e.pixel_values is None else e.pixel_values.double()
        with torch.no_grad():
            output = network(
                input_ids=e.input_ids[None], pixel_values=pixels, output_attentions=True,
                output_hidden_states=True,
            )  # fmt: skip
        attentions = [attention[0].mean(0).double() for attention in output.attentions]
        found[example.row] |= attending(e, output.hidden_states[1][0], attentions)
    return found


def glances(
    e: Any, first: torch.Tensor, last: torch.Tensor, neurons: list[torch.Tensor]
) -> dict[str, np.ndarray]:
    """Means of the states of one row after the ``first`` and ``last`` block, and top neurons."""
    image, places = e.image_mask, torch.arange(1, len(last) + 1).double()
    text = torch.arange(1, int((~image).sum()) + 1).double()
    answers = e.labels != -100
    return {
        "visual_mean": (first[image].mean(0) if image.any() else torch.zeros(32)).numpy(),
        "hidden_weighted": (places @ last / places.sum()).numpy(),
        "hidden_weighted_text": (text @ last[~image] / text.sum()).numpy(),
        "neurons": np.concatenate(
            [np.argsort(-part[answers].mean(0).numpy(), kind="stable")[:8] for part in neurons]
        ),
    }


def attending(e: Any, first: torch.Tensor, attentions: list[torch.Tensor]) -> dict[str, Any]:
    """ScalSelect's feature and MAGIC's bridging of one row with an image, token by token."""
    images, answers = np.flatnonzero(e.image_mask), np.flatnonzero(e.labels != -100)
    if not len(images):
        return {"visual_attended": np.zeros(32), "bridging": np.nan}
    asking = [i for i in range(len(first)) if i not in images and i not in answers]
    weight = attentions[0][asking].mean(0)[images].numpy()
    weight /= weight.sum()
    chosen: list[int] = []
    for i in np.argsort(-weight, kind="stable"):
        if weight[chosen].sum() > 0.9:
            break
        chosen.append(i)
    bridges = []
    for attention in attentions:
        for answer in answers:
            a = attention[answer, images].numpy()
            p = a / a.sum()
            bridges.append(a.sum() * (1 + (p * np.log(p)).sum() / np.log(len(p))))
    return {
        "visual_attended": first[images[chosen]].mean(0).numpy(),
        "bridging": np.mean(bridges) if bridges else np.nan,
    }


def loss_of(
    network: Any, ids: torch.Tensor, labels: torch.Tensor, pixels: torch.Tensor | None,
    mask: torch.Tensor | None = None,
) -> np.ndarray:  # fmt: skip
    """The model's own loss of one row."""
    given = None if pixels is None else pixels.double()
    mask = torch.ones_like(ids) if mask is None else mask
    with torch.no_grad():
        output = network(
            input_ids=ids[None], labels=labels[None], pixel_values=given, attention_mask=mask[None]
        )
    return np.asarray(output.loss.item())


def one_token_an_image(e: Any) -> tuple[torch.Tensor, torch.Tensor, None, torch.Tensor]:
    """Ids, labels and attention mask, one masked pad token where an image had four."""
    number = torch.cumsum(e.image_mask, dim=0) - 1
    kept = ~e.image_mask | (number % 4 == 0)
    image = e.image_mask[kept]
    return e.input_ids[kept].masked_fill(image, 0), e.labels[kept], None, (~image).long()


def answers_alone(example: Example, processor: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels of a prompt that is the images alone, written out by hand."""
    said = " ".join(turn.text for turn in example.turns if turn.role == "gpt")
    answer = f" {said}</s>" if said else ""
    opening, images = f"{TEMPLATES['vicuna_v1'].system} USER:", len(example.images)
    ending = f"ASSISTANT:{answer}"
    texts = [f"{opening} ", *[""] * (images - 1), f" {ending}"] if images else [opening + ending]
    ids, labels = [processor.tokenizer.bos_token_id], [-100]
    for number, text in enumerate(texts):
        image = [processor.image_token_id] * 4 * bool(number)
        made = processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        start = len(text) - len(answer) * (number == images)
        ids += image + made.input_ids
        pairs = zip(made.input_ids, made.offset_mapping, strict=True)
        labels += [-100] * len(image) + [i if span[1] > start else -100 for i, span in pairs]
    return torch.tensor(ids), torch.tensor(labels)
