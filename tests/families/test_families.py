"""Families of models: every stage is plain transformers', or refuses in words.

Here a handful, each for a kind of fault; all of them by ``python -m tests.families``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from coincide.features.forward.causal import changed_end, check_causal
from coincide.models.encode import Encoded, batches_of, collate, encode, model_inputs
from coincide.models.head import own_logits
from coincide.models.hub import Hub
from coincide.models.inputs import ALIKE, UnlikeInputs
from coincide.models.load import load_model, load_processor
from coincide.models.template import TEMPLATES
from coincide.schema import Dataset, UserError
from coincide.store import Store
from tests.families.made import make, rows
from tests.families.page import STAGES
from tests.families.stages import Stages
from train.lora import add_lora, fused_experts, projectors_of
from train.recipe import Recipe
from train.requirements import trainable

CHAT = TEMPLATES["chat"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return rows(tmp_path_factory.mktemp("rows"))


@pytest.mark.parametrize(
    "family",
    [
        "gemma3",  # one tensor for all pictures; a turn ends in a token that is no end of text
        "molmo2",  # a beginning put in front; indices that count over the batch; its own tokens
        "granite4_vision",  # scaled logits, tiles padded, projectors in lists
        "glm4v",  # a template that ends no answer
    ],
)
def test_every_stage_is_that_of_plain_transformers(
    family: str, dataset: Dataset, tmp_path: Path
) -> None:
    found = Stages(make(family, tmp_path / family), dataset).run()
    assert {stage: found.get(stage) for stage in STAGES} == dict.fromkeys(STAGES, "right")


def test_a_thought_in_the_last_answer_alone_is_no_obstacle(
    dataset: Dataset, tmp_path: Path
) -> None:
    """Each answer is learnt with its end; the last from where the model would begin."""
    processor = load_processor(make("qwen3_vl_thinking", tmp_path / "model"))
    row = encode(dataset.examples[7], dataset, processor, CHAT, 4096)
    said = processor.tokenizer.decode(row.input_ids[row.labels != -100])
    assert said == "yes<|im_end|>\n</think>\n\nso it is<|im_end|>"


def test_attention_that_sees_the_answer_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    """From its files before anything runs, and by two rows where they do not tell."""
    folder = make("paligemma", tmp_path / "model")
    said = " ".join(r.found for r in Hub(str(folder)).requirements() if not r.met)
    assert "models of kind paligemma cannot be used: its attention sees the whole row" in said
    processor, network = load_processor(folder), load_model(folder, torch.float64, "cpu")
    row = encode(dataset.examples[0], dataset, processor, CHAT, 512)
    assert (row.labels != -100).any(), "its own labels, all -100, are not taken"
    other = changed_end(row)
    assert other is not None
    with pytest.raises(UserError, match=r"PaliGemma.* is not causal: with another last token"):
        check_causal(network, _inputs([row]), _inputs([other]))


def _inputs(batch: list[Encoded]) -> dict[str, Any]:
    found = model_inputs(collate(batch, 0))
    del found["labels"]
    return {k: v.double() if v.is_floating_point() else v for k, v in found.items()}


def test_rows_that_cannot_be_one_batch_run_apart() -> None:
    def row(side: int, way: str = ALIKE, pictures: int = 1) -> Encoded:
        ids = torch.ones(3, dtype=torch.int64)
        pixels = torch.ones(pictures, 3, side, side) if pictures else None
        return Encoded(ids, ids, ids.bool(), ids.bool(), pixels, {}, way)

    unlike = [row(4), row(0, pictures=0), row(6), row(4)]
    assert batches_of(unlike) == [[0, 1, 3], [2]]
    with pytest.raises(UnlikeInputs, match=r"pixel_values .* shapes \(3, 4, 4\) and \(3, 6, 6\)"):
        collate(unlike, 0)
    padded = [row(4, "padded"), row(6, "padded")]
    assert batches_of(padded) == [[0, 1]]
    assert collate(padded, 0)["pixel_values"].shape == (2, 3, 6, 6)


def test_soft_caps_are_the_models_own(tmp_path: Path) -> None:
    network = load_model(make("muse_glimmer", tmp_path / "model"), torch.float64, "cpu")
    states = torch.randn(1, 3, 32, dtype=torch.float64) * 20
    with torch.inference_mode():
        own, plain = own_logits(network)(states), network.lm_head(states)
    assert own_logits(network).scale is None
    cap = network.config.text_config.final_logit_softcapping
    factor = network.config.text_config.output_multiplier
    assert torch.allclose(own, cap * torch.tanh(plain * factor / cap))
    assert network(input_ids=torch.tensor([[1, 2]])).logits.shape[1] == 2, "its forward is its own"


def test_lora_reaches_what_it_says(tmp_path: Path) -> None:
    """The plan says that fused experts stay; a router that is no plain linear layer is left alone;
    a merger in the tower is no projector where there is one behind it."""
    folder = make("llama4", tmp_path / "llama4")
    (said,) = trainable(Hub(str(folder)))
    assert not said.fatal
    assert "its experts, " in said.found
    network = load_model(folder, torch.float32, "cpu")
    assert len(fused_experts(network)) == 2 * 3
    adapted = add_lora(network, Recipe(rank=2, alpha=4), base="tiny", keep_dtype=True)
    names = [name for name, _ in adapted.named_parameters() if "lora_A" in name]
    assert names and not any("router" in name or "experts" in name for name in names)
    tower = make("hyperclovax_vision_v2", tmp_path / "hyperclovax")
    assert projectors_of(load_model(tower, torch.float32, "cpu")) == ["projector"]


@pytest.mark.parametrize(
    ("family", "limits"),
    [
        ("qwen2_5_vl", {"min_pixels": 28 * 28, "max_pixels": 4 * 28 * 28}),
        ("smolvlm", {"size": {"longest_edge": 32}}),
        ("internvl", {"max_patches": 1}),
    ],
)
def test_limits_of_pictures_hold_in_every_stage(
    family: str, limits: dict[str, Any], dataset: Dataset, tmp_path: Path
) -> None:
    """In the artifact, which features, training and evaluation read, and in the scan's processor;
    the published files stay as they are."""
    folder = make(family, tmp_path / "model")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    usual, limited = Hub(str(folder)), Hub(str(folder), pictures=limits)
    wide = dataset.examples[3]

    def tokens(processor: Any) -> int:
        return int(encode(wide, dataset, processor, CHAT, 4096).image_mask.sum())

    whole = tokens(usual.processor().load("x"))
    fewer = tokens(limited.processor().load("x"))
    assert 0 < fewer < whole
    store = Store(tmp_path / "store")
    made = load_processor(store.ensure(limited.step()).path / "model")
    assert tokens(made) == fewer
    assert usual.step().key != limited.step().key
    assert usual.processor().identity != limited.processor().identity
    assert before == {file.name: file.read_bytes() for file in folder.iterdir()}
