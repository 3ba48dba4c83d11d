"""Stage 1 of Self-Filter and CoIDO: the loss by hand, one step by autograd, what it leaves."""

from __future__ import annotations

import copy
import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from coincide.data.llava_json import read
from coincide.features.engine.shards import write_shard
from coincide.features.signals.clip_image import ClipImage
from coincide.features.signals.clip_text import ClipText
from coincide.models.encode import collate, encode
from coincide.models.load import load_model, load_processor
from coincide.models.recompute import checkpoint_layers
from coincide.models.template import TEMPLATES
from coincide.schema import Dataset, Difficulty, JointDifficulty, UserError
from coincide.store import Artifact, Build, Step, Store
from coincide.system.files import write_json
from tests.train.tiny import TinyModel
from train import stage_one as stage
from train.joint_scorer import JointScorer, spread_over
from train.recipe import Recipe
from train.self_filter import difficulty_step
from train.stage_one import epoch_batches, step, weighted_loss

ROWS, WIDTH = 60, 8
SIGNALS = (ClipImage(), ClipText("dialogue"))
NEED = Difficulty(SIGNALS, epochs=6, batch=6, lr=5e-3)
TEXT_ONLY, EMPTY, UNKNOWN = (5, 25), 11, 17
HARD = range(40, ROWS)
"""Rows whose answer is drawn at random; all others have one and the same."""


def make_rows(root: Path) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    words = ["red", "circle", "three", "left", "shape", "larger", "many", "squares"]
    rows = []
    for i in range(ROWS):
        answer = words[rng.integers(len(words))] if i in HARD else "no"
        turns = [
            {"from": "human", "value": "<image>\nwhat colour"},
            {"from": "gpt", "value": "" if i == EMPTY else answer},
        ]
        row: dict[str, Any] = {"id": str(i), "conversations": turns}
        if i in TEXT_ONLY:
            turns[0]["value"] = "what colour"
        else:
            pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / f"{i}.png")
            row["image"] = f"images/{i}.png"
        rows.append(row)
    return rows


@dataclass(frozen=True)
class Data:
    name: str = "sixty"

    def step(self) -> Step:
        return Step("data", "sixty", 1, {}, self._build)

    def _build(self, build: Build) -> None:
        write_json(build.dir / "train.json", make_rows(build.dir))

    def open(self, artifact: Path) -> Dataset:
        return read(artifact / "train.json", artifact, name="sixty", on_bad_row="drop")


def features(number: int) -> np.ndarray:
    """Hard rows lie in another direction; text-only rows have no image."""
    rng = np.random.default_rng(number)
    x = rng.normal(0, 0.2, size=(ROWS, WIDTH))
    x[:, 0] += 1
    x[list(HARD), 1] += 1
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    if number == 0:
        x[list(TEXT_ONLY)] = np.nan
    return x.astype(np.float32)


def signal_steps() -> list[Step]:
    def make(number: int) -> Step:
        def build(build: Build) -> None:
            valid = np.arange(ROWS) != UNKNOWN
            write_shard(build.dir, 0, features(number), valid)

        return Step("features", f"clip-{number}", 1, {"number": number}, build)

    return [make(0), make(1)]


def wanted(recipe: Recipe | None = None, need: Difficulty = NEED) -> Step:
    model, data = TinyModel(), Data()
    return difficulty_step(
        need,
        signal_steps(),
        model=model,
        base=model.step(),
        source=data,
        data=data.step(),
        recipe=recipe,
    )


def stage_one(root: Path, recipe: Recipe | None = None, need: Difficulty = NEED) -> Artifact:
    store = Store(root)
    made = wanted(recipe, need)
    for step_before in made.needs:
        store.ensure(step_before)
    return store.ensure(made)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return stage_one(tmp_path_factory.mktemp("store"))


def test_the_loss_and_its_gradient_by_hand() -> None:
    """With c_i the summed loss of example i: dL/ds_i = B / n w_i (c_i - sum_j w_j c_j)."""
    torch.manual_seed(0)
    logits, scores = torch.randn(4, 9, 7), torch.randn(4, requires_grad=True)
    labels = torch.randint(0, 7, (4, 9))
    labels[:, :3] = -100
    labels[2, 5:] = -100
    weights = torch.softmax(scores, dim=0)
    loss = weighted_loss(logits, labels, weights, 4, int((labels[:, 1:] != -100).sum()))

    c, n = torch.zeros(4), 0
    for i in range(4):
        for t in range(1, 9):
            if labels[i, t] != -100:
                c[i] -= torch.log_softmax(logits[i, t - 1], -1)[labels[i, t]]
                n += 1
    w = torch.exp(scores.detach()) / torch.exp(scores.detach()).sum()
    torch.testing.assert_close(loss.detach(), 4 * (w * c).sum() / n)
    torch.testing.assert_close(weights.detach(), w)
    loss.backward()
    torch.testing.assert_close(scores.grad, 4 / n * w * (c - (w * c).sum()))


@pytest.mark.parametrize(("at_once", "joint"), [(4, False), (3, False), (1, False), (3, True)])
def test_one_step_of_both_by_autograd(made: Artifact, at_once: int, joint: bool) -> None:
    """Gradients of the net and the model against transformers' own loss, example by example;
    a batch in parts is the same step. CoIDO's (``joint``) adds the spread over two clusters.
    """
    store = made.path.parent.parent
    folder = next((store / "target").iterdir()) / "model"
    processor, network = load_processor(folder), load_model(folder, torch.float32, "cpu")
    dataset = Data().open(next((store / "data").iterdir()))
    rows = [0, 1, 41, 42]
    encoded = [
        encode(dataset.examples[r], dataset, processor, TEMPLATES["tiny"], 128) for r in rows
    ]
    cut_up = [encoded[at : at + at_once] for at in range(0, 4, at_once)]
    f = torch.from_numpy(np.concatenate([features(0), features(1)], axis=1)[rows])
    net: Any = torch.nn.Linear(2 * WIDTH, 1, bias=False)
    clusters = torch.tensor([7, 3, 7, 7])
    if joint:
        net = JointScorer(2 * WIDTH - 3, 3, 5, seed=0)
        torch.nn.init.normal_(net.score.weight)
        torch.nn.init.normal_(net.log_sigma)

    twin, net_twin = copy.deepcopy(network), copy.deepcopy(net)
    losses, counts = [], []
    for e in encoded:
        counts.append(int((e.labels[1:] != -100).sum()))
        output = twin(
            input_ids=e.input_ids[None], labels=e.labels[None], pixel_values=e.pixel_values
        )
        losses.append(output.loss * counts[-1])
    weights = torch.softmax(net_twin(f)[:, 0], dim=0)
    loss = 4 * (weights * torch.stack(losses)).sum() / sum(counts)
    if joint:
        a, b = weights[[0, 2, 3]].mean(), weights[1]
        spread, (s1, s2) = (a - b).abs() / 2, net_twin.log_sigma.exp()
        loss = loss / s1**2 + spread / (2 * s2**2) + s1.log() + s2.log()
    loss.backward()

    both = [*network.parameters(), *net.parameters()]
    before = [p.detach().clone() for p in both]
    more = net.regularize(clusters) if joint else None
    parts = [collate(part, 0) for part in cut_up]
    step(network, net, parts, f, torch.optim.SGD(both, lr=1.0), more)
    for p, was, q in zip(both, before, [*twin.parameters(), *net_twin.parameters()], strict=True):
        moved = was - (torch.zeros_like(was) if q.grad is None else q.grad)
        torch.testing.assert_close(p.detach(), moved, atol=2e-5, rtol=1e-4)


def test_rows_that_take_no_part_have_no_difficulty(made: Artifact) -> None:
    difficulty = np.load(made.path / "difficulty.npy")
    assert difficulty.dtype == np.float32
    assert np.flatnonzero(np.isnan(difficulty)).tolist() == sorted((*TEXT_ONLY, EMPTY, UNKNOWN))


def test_what_is_random_is_hard(made: Artifact) -> None:
    difficulty = np.load(made.path / "difficulty.npy")
    hard = np.isin(np.arange(ROWS), list(HARD))
    assert np.nanmin(difficulty[hard]) > np.nanmedian(difficulty[~hard])
    assert np.nanmedian(difficulty[hard]) > np.nanmax(difficulty[~hard])


def test_net_and_model_are_artifacts(made: Artifact) -> None:
    weight = load_file(made.path / "score_net.safetensors")["weight"]
    assert weight.shape == (1, 2 * WIDTH)
    f = np.concatenate([features(0), features(1)], axis=1)
    difficulty = np.load(made.path / "difficulty.npy")
    known = ~np.isnan(difficulty)
    np.testing.assert_allclose(difficulty[known], -(f @ weight.numpy()[0])[known], atol=1e-6)
    trained = load_model(made.path / "model", torch.float32, "cpu").state_dict()
    base = load_model(
        next((made.path.parent.parent / "target").iterdir()) / "model", torch.float32, "cpu"
    ).state_dict()
    changed = {name for name in base if not torch.equal(base[name], trained[name])}
    assert any("language_model" in name for name in changed)
    assert any("multi_modal_projector" in name for name in changed)
    assert not any("vision_tower" in name for name in changed)
    log = json.loads((made.path / "log.json").read_text())
    assert len(log) == made.facts["steps"]
    assert made.facts["loss_last"] < made.facts["loss_first"]


FILES = ("difficulty.npy", "score_net.safetensors", "model/model.safetensors", "log.json")


def assert_same_bytes(one: Artifact, other: Artifact) -> None:
    for name in FILES:
        assert (one.path / name).read_bytes() == (other.path / name).read_bytes(), name


def test_the_same_bytes_again(made: Artifact, tmp_path: Path) -> None:
    """Also with layers checkpointed and with checkpoints written: speed alone, the same key."""
    recipe = Recipe(gradient_checkpointing=True, save_every=5)
    assert wanted(recipe).key == wanted().key
    again = stage_one(tmp_path, recipe)
    assert_same_bytes(again, made)
    assert not list(again.path.glob("*state*"))


def test_checkpointing_really_runs_layers_twice(made: Artifact) -> None:
    folder = next((made.path.parent.parent / "target").iterdir()) / "model"
    network = load_model(folder, torch.float32, "cpu")
    checkpoint_layers(network)
    calls: list[int] = []
    layer = network.model.language_model.layers[0].mlp
    layer.register_forward_pre_hook(lambda *_: calls.append(1))
    network(input_ids=torch.tensor([[1, 5, 6]])).logits.sum().backward()
    assert len(calls) == 2
    assert not layer.training


class Killed(BaseException):
    pass


def killed_at(number: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let stage 1 die in its optimizer step ``number``; the list grows with every step."""
    real, steps = stage.step, list[int]()

    def dying(*inputs: Any) -> dict[str, float]:
        steps.append(1)
        if len(steps) == number:
            raise Killed
        return real(*inputs)

    monkeypatch.setattr(stage, "step", dying)
    return steps


def test_killed_and_resumed_gives_the_same_bytes(
    made: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    recipe = Recipe(gradient_checkpointing=False, save_every=4)
    steps = killed_at(11, monkeypatch)
    with pytest.raises(Killed):
        stage_one(tmp_path, recipe)
    again = stage_one(tmp_path, recipe)
    assert "self_filter: resumed at batch 8 of" in capsys.readouterr().out
    assert_same_bytes(again, made)
    assert len(steps) == 11 + again.facts["steps"] - 8


def test_out_of_memory_splits_the_batch_and_not_the_loss(
    made: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Memory for two examples: from batches of six down to three, then two."""
    from transformers import LlavaForConditionalGeneration

    real = LlavaForConditionalGeneration.forward

    def small(self: Any, input_ids: torch.Tensor, **inputs: Any) -> Any:
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return real(self, input_ids, **inputs)

    monkeypatch.setattr(LlavaForConditionalGeneration, "forward", small)
    split = stage_one(tmp_path)
    said = capsys.readouterr().out
    assert "out of memory with 6 examples at once; going on with 3" in said
    assert "going on with 2" in said
    assert split.facts["examples_at_once"] == 2
    one, other = (np.load(a.path / "difficulty.npy") for a in (split, made))
    np.testing.assert_allclose(one, other, atol=1e-5)
    losses = [
        [r["loss"] for r in json.loads((a.path / "log.json").read_text())] for a in (split, made)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_the_step_is_planned_without_torch() -> None:
    parts = "train.self_filter, train.stage, train.requirements, train.estimate"
    code = f"import sys, {parts}; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"


def test_every_row_once_per_epoch() -> None:
    rows = np.arange(3, 50)
    first, second = (np.concatenate(epoch_batches(rows, NEED, epoch)) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == rows.tolist()
    assert first.tolist() != second.tolist()


def test_coidos_net_is_its_formula_and_starts_at_nothing() -> None:
    net, x = JointScorer(5, 2, 4, seed=1), torch.randn(9, 7)
    assert not net(x).any()
    torch.nn.init.normal_(net.score.weight)
    f, g, a, r, v = ({k: p.detach().numpy() for k, p in part.named_parameters()} for part in (
        net.features, net.scalars, net.fusion, net.residual, net.score))  # fmt: skip
    for row, found in zip(x.numpy(), net.scores(x.numpy()), strict=True):
        both = [row[:5] @ f["weight"].T + f["bias"], row[5:] @ g["weight"].T + g["bias"]]
        h = np.maximum(np.maximum(np.concatenate(both), 0) @ a["weight"].T + a["bias"], 0)
        h = h + np.maximum(h @ r["weight"].T + r["bias"], 0)
        assert found == pytest.approx((h @ v["weight"].T).item(), abs=1e-5)
    w = torch.full((3,), 0.2, requires_grad=True)
    spread_over(w, torch.tensor([1, 2, 2])).backward()
    assert w.grad is not None
    assert not w.grad.any()


def test_coidos_scorer_learns_on_a_part_and_scores_every_row(
    made: Artifact, tmp_path: Path, capsys: Any
) -> None:
    """Rows with features have a difficulty; what is random is hard; a table's columns are read."""
    table = tmp_path / "scores.csv"
    table.write_text("row,judge\n" + "".join(f"{i},{i % 5}\n" for i in range(ROWS) if i != 3))
    sha = hashlib.sha256(table.read_bytes()).hexdigest()
    need = JointDifficulty(SIGNALS, 5, 6, 1e-2, of_pool=0.7, clusters=3, width=8,
                           scores=str(table), scores_sha256=sha)  # fmt: skip
    elsewhere = tmp_path / "same.csv"
    elsewhere.write_bytes(table.read_bytes())
    keys = {wanted(need=each).key for each in (need, replace(need, scores=str(elsewhere)))}
    assert len(keys) == 1
    assert wanted(need=replace(need, of_pool=0.5)).key not in keys | {wanted().key}
    found = stage_one(tmp_path / "store", need=need)
    difficulty = np.load(found.path / "difficulty.npy")
    assert np.flatnonzero(np.isnan(difficulty)).tolist() == sorted((*TEXT_ONLY, UNKNOWN, 3))
    assert found.facts["rows"] in (38, 39), "0.7 of 56, one of which may have no answer"
    hard = np.isin(np.arange(ROWS), list(HARD))
    assert np.nanmedian(difficulty[hard]) > np.nanmedian(difficulty[~hard])
    tensors = load_file(found.path / "score_net.safetensors")
    assert tensors["features.weight"].shape == (8, 2 * WIDTH)
    assert tensors["scalars.weight"].shape == (8, 2), "the cosine, and the judge's column"
    assert tensors["log_sigma"].abs().min() > 0
    table.write_text("row,judge\n900,1\n")
    with pytest.raises(UserError, match="changed since the run was planned"):
        stage_one(tmp_path / "other", need=need)
    wrong = replace(need, scores_sha256=hashlib.sha256(table.read_bytes()).hexdigest())
    with pytest.raises(UserError, match="column row: expected whole numbers, 0 to 59"):
        stage_one(tmp_path / "other", need=wrong)


def test_coidos_stage_killed_and_resumed_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    recipe = Recipe(gradient_checkpointing=False, save_every=2)
    need = JointDifficulty(SIGNALS, 1, 6, 1e-2, of_pool=0.5, clusters=3, width=8)
    whole = stage_one(tmp_path / "whole", recipe, need)
    steps = killed_at(4, monkeypatch)
    with pytest.raises(Killed):
        stage_one(tmp_path / "killed", recipe, need)
    again = stage_one(tmp_path / "killed", recipe, need)
    assert "resumed at batch 2 of" in capsys.readouterr().out
    assert_same_bytes(again, whole)
    assert len(steps) == 4 + again.facts["steps"] - 2
