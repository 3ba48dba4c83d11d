"""Gradients of rows by LoRA parameters: those of autograd, whatever the batch; sketches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from coincide.config import FeaturePass
from coincide.features.engine.shards import ShardedArray, read_valid
from coincide.features.forward import gradients
from coincide.features.forward.adapted import AdaptedModel, matrices_of
from coincide.features.forward.gradients import GradientReading, GradientRun, adam_step
from coincide.features.signals.attention_spectrum import AttentionSpectrum
from coincide.features.signals.gradient_length import GradientLength
from coincide.features.signals.gradients import Gradients
from coincide.influence import find_store, influence, main
from coincide.ledger.evidence import ArtifactShelf
from coincide.ledger.files import read_result, write_result
from coincide.models.encode import encode
from coincide.models.load import load_model, load_processor
from coincide.models.template import TEMPLATES
from coincide.models.tuned import MOMENTS, read_adapter
from coincide.report.compare import panels
from coincide.report.influences import influences
from coincide.report.pictures import Budget
from coincide.schema import Signal
from coincide.store import Artifact, Store
from tests.features.adapted import (
    WARM,
    adam_of,
    adapted,
    loss_of,
    of_a_run,
    plain,
    run,
    sketched,
    text_row,
    warmup_step,
)
from tests.features.conftest import Model, Source, rows

DIM = 512
SIGNALS: tuple[Signal, ...] = (
    Gradients(WARM, dimension=DIM),
    Gradients(WARM, 1, dimension=DIM, kind="adam"),
    Gradients(WARM, 1, "flat", 64, loss="sum"),
    Gradients(WARM, 1, "per_module", 4),
    GradientLength(WARM),
    GradientLength(WARM, loss="sum"),
    GradientLength(WARM, 1, kind="adam"),
)
BY_DROPPED, EMPTY, TEXT_ONLY = 3, 9, (0, 6, 12, 18)


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, source: Source, model: Model
) -> tuple[Path, list[Artifact]]:
    root = tmp_path_factory.mktemp("gradients")
    return root, run(root, source, model, SIGNALS)


@pytest.fixture(scope="module")
def folders(made: tuple[Path, list[Artifact]], model: Model) -> tuple[Path, Path]:
    """Of the base, and of the adapters."""
    store = Store(made[0])
    base, warm = (store.artifact(s).path / "model" for s in (model.step(), warmup_step(model)))
    return base, warm


def test_rows_have_the_gradients_of_autograd_one_row_at_a_time(
    made: tuple[Path, list[Artifact]], folders: tuple[Path, Path], source: Source
) -> None:
    """Of pictures, texts, several turns and pictures; by both kinds, losses and all sketches."""
    base, warm = folders
    truth = [plain(base, source, number) for number in range(2)]
    matrices = matrices_of(read_adapter(warm / "at-00"))
    moments = load_file(warm / "at-01" / MOMENTS)
    for signal, artifact in zip(SIGNALS, made[1], strict=True):
        assert isinstance(signal, Gradients | GradientLength)
        values = np.asarray(ShardedArray(artifact.path)).astype(np.float64)
        valid = read_valid(artifact.path)
        assert np.flatnonzero(~valid).tolist() == [BY_DROPPED, EMPTY]
        for row in np.flatnonzero(valid).tolist():
            parts, count = truth[signal.at][row]
            factor = count if signal.loss == "sum" else 1
            whole = {n: factor * g for n, g in parts.items()}
            if signal.kind == "adam":
                whole = {n: adam_of(n, g, moments) for n, g in whole.items()}
            if isinstance(signal, GradientLength):
                expected = np.sqrt([sum(float(g.square().sum()) for g in whole.values())])
            else:
                expected = sketched(signal, matrices, whole)
            np.testing.assert_allclose(values[row], expected, rtol=2e-3, atol=1e-5)


def test_the_same_bytes_for_every_batch_size_shard_and_worker(
    made: tuple[Path, list[Artifact]],
    tmp_path: Path,
    source: Source,
    model: Model,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also after a kill, which costs the shard at work; and, in float32, the same nearest rows."""
    root, small = tmp_path / "killed", {"batch_size": 1, "shard_rows": 7}
    honest, passed = gradients.answer_losses, []

    def killed(*args: Any) -> torch.Tensor:
        passed.append(1)
        if len(passed) > 20:  # in the second unit of eight rows, each read by two adapters
            raise KeyboardInterrupt
        return honest(*args)

    monkeypatch.setattr(gradients, "answer_losses", killed)
    with pytest.raises(KeyboardInterrupt):
        run(root, source, model, SIGNALS, **small)
    monkeypatch.undo()
    capsys.readouterr()
    first = {s: np.asarray(ShardedArray(a.path)) for s, a in zip(SIGNALS, made[1], strict=True)}
    resumed = run(root, source, model, SIGNALS, processes=2, **small)
    assert "resumed with 8 of 24 rows done" in capsys.readouterr().out
    for signal, artifact in zip(SIGNALS, resumed, strict=True):
        assert np.asarray(ShardedArray(artifact.path)).tobytes() == first[signal].tobytes()
    both = [
        np.asarray(ShardedArray(run(tmp_path / name, source, model, SIGNALS[:1], dtype="float32",
                                    **options)[0].path)).astype(np.float64)
        for name, options in (("a", {"batch_size": 1}), ("b", {"shard_rows": 10}))
    ]  # fmt: skip
    np.testing.assert_allclose(both[0], both[1], atol=1e-4)
    orders = [np.argsort(-(x @ x[1]), kind="stable")[:8].tolist() for x in both]
    assert orders[0] == orders[1]


def test_products_with_a_gradient_are_what_small_steps_change(folders: tuple[Path, Path]) -> None:
    """Finite differences along random directions, with every number of the gradient kept."""
    base, warm = folders
    whole = GradientReading(0, "sgd", "mean", "per_module", 1 << 20)
    length = GradientReading(0, "sgd", "mean", None)
    work = GradientRun(_model(base, warm, torch.float64), [warm / "at-00"], [whole], 0,
                       FeaturePass())  # fmt: skip
    row = text_row(12)
    found = work.read_at([whole, length], [row], None)
    g = torch.from_numpy(found[whole][0] * found[length][0])
    layers = work.model._layers
    for seed in range(3):
        torch.manual_seed(seed)
        step = {m.name: torch.randn(m.rank, m.width).double() for m in work.model.matrices}
        slope = float(g @ torch.cat([step[name].flatten() for name in sorted(step)]))
        losses = []
        for sign in (1e-3, -2e-3, 1e-3):  # there, as far on the other side, and back
            for name, layer in layers.items():
                layer.a += sign * step[f"{name}.lora_A"]
                layer.b += sign * layer.scale * step[f"{name}.lora_B"].T
            with torch.no_grad(), work.model.beside():
                losses.append(loss_of(work, row))
        assert (losses[0] - losses[1]) / 2e-3 == pytest.approx(slope, rel=5e-3)


def _model(base: Path, warm: Path, dtype: torch.dtype) -> AdaptedModel:
    return AdaptedModel(load_model(base, dtype, "cpu"), [warm / "at-00"])


@pytest.mark.parametrize(("dtype", "near"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_half_precision_models_have_rows_summed_in_float32(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, near: float
) -> None:
    """Sums over tokens are those of float64 of what the model gave in half precision."""
    base, warm = folders
    readings = [GradientReading(0, "sgd", "mean", "per_module", 1 << 20),
                GradientReading(0, "sgd", "mean", None)]  # fmt: skip
    encoded = [text_row(length) for length in (9, 12, 7)]
    found, summed, honest = {}, {}, gradients.RowSums.receive

    def receive(self: Any, name: str, factors: Any) -> None:
        for matrix, (short, long) in (("lora_A", factors.of_a), ("lora_B", factors.of_b)):
            product = short.double().transpose(1, 2) @ long.double() / self.scale
            summed[f"{name}.{matrix}"] = product.flatten(1)
        honest(self, name, factors)

    monkeypatch.setattr(gradients.RowSums, "receive", receive)
    for each in (torch.float64, dtype):
        work = GradientRun(_model(base, warm, each), [warm / "at-00"], readings, 0, FeaturePass())
        found[each] = work.read_at(readings, encoded, None)
    exact = torch.cat([summed[name] for name in sorted(summed)], dim=1).numpy()
    unit, length = (found[dtype][reading] for reading in readings)
    np.testing.assert_allclose(unit * length, exact, rtol=1e-4, atol=1e-6 * np.abs(exact).max())
    cosines = (unit * found[torch.float64][readings[0]]).sum(axis=1)
    assert (cosines > 1 - near**2).all()
    np.testing.assert_allclose(length, found[torch.float64][readings[1]], rtol=near)


def test_blocks_that_run_again_in_backward_change_nothing(folders: tuple[Path, Path]) -> None:
    """Also a linear that runs twice, and rows that a layer gets in one heap, one by one."""
    base, warm = folders
    network = load_model(base, torch.float64, "cpu")
    readings = [
        GradientReading(0, "sgd", "mean", "hashed", DIM),
        GradientReading(0, "adam", "mean", "hashed", DIM),
    ]
    model = AdaptedModel(network, [warm / "at-00"])
    work = GradientRun(model, [warm / "at-00"], readings, 0, FeaturePass())
    encoded = [text_row(length) for length in (9, 12, 7)]
    before = work.read_at(readings, encoded, None)
    twice = network.model.language_model.layers[1].mlp.gate_proj
    plain_forward = type(network.model.language_model.layers[1].mlp).forward

    def again(self: Any, x: torch.Tensor) -> torch.Tensor:
        half = x / 2
        gate = self.gate_proj(half) + self.gate_proj(half)
        return self.down_proj(self.act_fn(gate) * self.up_proj(x))

    block = network.model.language_model.layers[1].mlp
    block.forward = again.__get__(block)
    assert twice.bias is None
    doubled = work.read_at(readings, encoded, None)
    block.forward = plain_forward.__get__(block)
    work.recompute()
    recomputed = work.read_at(readings, encoded, None)
    for reading in readings:
        np.testing.assert_allclose(recomputed[reading], before[reading], rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(doubled[reading], before[reading], rtol=1e-9, atol=1e-13)


def test_a_linear_that_gets_rows_in_one_heap_is_told_from_one_that_does_not(
    folders: tuple[Path, Path],
) -> None:
    base, warm = folders
    network = load_model(base, torch.float64, "cpu")
    model = AdaptedModel(network, [warm / "at-00"])
    readings = [GradientReading(0, "sgd", "mean", "hashed", DIM)]
    work = GradientRun(model, [warm / "at-00"], readings, 0, FeaturePass())
    batch = [[(i, {"whole": text_row(length)})] for i, length in enumerate((9, 12, 7))]
    examples: Any = [type("E", (), {"images": (), "row": i})() for i in range(3)]
    before = work(batch, examples)[0]
    mlp = network.model.language_model.layers[0].mlp
    plain_forward = type(mlp).forward

    def heap(self: Any, x: torch.Tensor) -> torch.Tensor:
        return plain_forward(self, x.reshape(-1, x.shape[-1])).reshape(x.shape)

    mlp.forward = heap.__get__(mlp)
    found = work(batch, examples)[0]
    np.testing.assert_allclose(found, before, rtol=1e-9, atol=1e-13)
    assert work.options.batch_size == 1


def test_a_row_without_a_finite_gradient_is_named_and_not_used(
    made: tuple[Path, list[Artifact]],
    tmp_path: Path,
    source: Source,
    model: Model,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    honest = gradients.answer_losses
    passed: list[int] = []

    def broken(states: torch.Tensor, labels: torch.Tensor, head: Any) -> torch.Tensor:
        passed.append(len(labels))
        return honest(states, labels, head) * (torch.inf if len(passed) == 3 else 1.0)

    monkeypatch.setattr(gradients, "answer_losses", broken)
    (artifact,) = run(tmp_path, source, model, SIGNALS[:1], batch_size=1)
    [lost] = set(np.flatnonzero(~read_valid(artifact.path)).tolist()) - {BY_DROPPED, EMPTY}
    said = capsys.readouterr().out
    named = ", ".join(map(str, sorted((EMPTY, lost))))
    assert f"2 rows whose gradient is zero or not finite are not used: {named}\n" in said
    assert np.isfinite(np.asarray(ShardedArray(artifact.path))).all()


def test_adams_step_is_that_of_less() -> None:
    g, m, v = (torch.tensor([x], dtype=torch.float64) for x in (0.5, -0.2, 0.04))
    expected = (0.9 * -0.2 + 0.1 * 0.5) / (0.999 * 0.04 + 0.001 * 0.25 + 1e-8) ** 0.5
    assert float(adam_step(g, m, v)) == pytest.approx(expected, rel=1e-12)


def test_attention_to_the_image_is_that_of_the_adapted_model(
    folders: tuple[Path, Path], tmp_path: Path, source: Source, model: Model
) -> None:
    """Of both adapters, in one pass; a row without an image has none."""
    signals = tuple(AttentionSpectrum(WARM, at, layers=(0, 1)) for at in range(2))
    found = run(tmp_path, source, model, signals, batch_size=5)
    dataset, processor = source.open(Path()), load_processor(folders[0])
    for signal, artifact in zip(signals, found, strict=True):
        values = np.asarray(ShardedArray(artifact.path))
        assert np.isnan(values[[row for row in TEXT_ONLY if row != BY_DROPPED]]).all()
        network = adapted(folders[0], signal.at)
        network.set_attn_implementation("eager")
        for row in (1, 7, 13):
            e = encode(rows()[row], dataset, processor, TEMPLATES["vicuna_v1"], 256)
            assert e.pixel_values is not None
            with torch.no_grad():
                output = network(
                    input_ids=e.input_ids[None], pixel_values=e.pixel_values.double(),
                    output_attentions=True,
                )  # fmt: skip
            whole = sum(each[0].mean(dim=0) for each in output.attentions)
            expected = torch.linalg.svdvals(whole[e.text_mask][:, e.image_mask])[:5]
            np.testing.assert_allclose(values[row, : len(expected)], expected, rtol=1e-4, atol=1e-5)


def test_the_rows_that_pulled_a_sample_are_those_of_the_gradients_themselves(
    made: tuple[Path, list[Artifact]],
    folders: tuple[Path, Path],
    source: Source,
    model: Model,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sample that is a training row finds itself first; the order is that of every product."""
    path = of_a_run(made[0], source, model)
    monkeypatch.chdir(made[0].parent)
    words = [str(path), "--store", made[0].name, "--out", str(tmp_path), "--top", "5"]
    assert main([*words, "--sample", "odd:4"]) == 0
    said = capsys.readouterr().out
    run = read_result(path)
    shelf = ArtifactShelf(made[0])
    found = influence(run, shelf, "odd:4", 5)
    signal = next(s for s in SIGNALS if f"-{made[1][SIGNALS.index(s)].path.name}" in
                  f"-{found.store.folder.name}")  # fmt: skip
    assert isinstance(signal, Gradients)
    assert (signal.kind, signal.at) == ("sgd", 1), "plain ones of the last checkpoint"
    truth = plain(folders[0], source, 1)
    matrices = matrices_of(read_adapter(folders[1] / "at-00"))
    sketches = {r: sketched(signal, matrices, parts) for r, (parts, _) in truth.items()}
    chosen = [r for r in shelf.rows(run).tolist() if r in sketches and r != BY_DROPPED]  # type: ignore[union-attr]
    cosine = {r: float(sketches[r] @ sketches[10]) for r in chosen}
    order = sorted(chosen, key=lambda r: -cosine[r])
    assert order[0] == 10
    assert [each.example.row for each in found.up] == [r for r in order if cosine[r] > 0][:5]
    assert [each.example.row for each in found.down] == [r for r in order[::-1] if cosine[r] < 0][
        :5
    ]
    for each in (*found.up, *found.down):
        assert each.cosine == pytest.approx(cosine[each.example.row], abs=2e-3)
        assert each.example.source == ("odd" if each.example.row % 2 else "even")
    assert (found.rows, found.above) == (len(chosen), sum(c > 0 for c in cosine.values()))
    assert found.counts in " ".join(said.split())
    page = (tmp_path / f"{path.stem}-odd-4.html").read_text()
    assert page.count("<img") == 1 + sum(len(e.example.images) for e in (*found.up, *found.down))
    (one,) = influences(panels([run])[0], shelf, Budget(10**7))
    assert [each["cosine"] for each in one["up"]] == [f"{e.cosine:+.3f}" for e in found.up]
    assert one["up"][0]["about"] == "row 10, even"
    assert one["up"][0]["pictures"][0].startswith("data:image/")
    assert one["counts"] == found.counts
    assert main([*words, "--sample", "odd:6"]) == 0
    two = influence(run, shelf, "odd:6", 5)
    assert len(two.sample.pictures) == 2
    page = (tmp_path / f"{path.stem}-odd-6.html").read_text()
    assert page.count("<img") == 2 + sum(len(e.example.images) for e in (*two.up, *two.down))
    assert [len(e["pictures"]) for e in influences(panels([run])[0], shelf, Budget(10**7))] == [
        1,
        2,
    ]


def test_what_influence_cannot_tell_is_said_with_its_remedy(
    made: tuple[Path, list[Artifact]],
    source: Source,
    model: Model,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = of_a_run(made[0], source, model)
    other = write_result(
        made[0] / "ledger", replace(read_result(path), seed=1, contents={"data": "f" * 12})
    )
    wrong = {
        f"{path}x --sample odd:4": f"expected a result of the ledger (.json); {path.parent} has 2",
        f"{path} --sample even:4": "expected BENCHMARK:ID, with one of odd and the doc_id",
        f"{path} --sample odd:77": "has 3 samples with a score, and none with doc_id 77",
        f"{path} --sample odd:5": "odd:5 is asked about a picture, and it cannot be read",
        f"{path} --sample odd:4 --top 0": "--top=0: expected a whole number, 1 or more",
        f"{path} --sample odd:4 --store {tmp_path}": "the subset of the run is not in the store",
        f"{other} --sample odd:4": "method=icons data=demo target=tiny targets=",
    }
    for words, expected in wrong.items():
        named = words if "--store" in words else f"{words} --store {made[0]}"
        assert main([*named.split(), "--out", str(tmp_path)]) == 2
        assert expected in capsys.readouterr().err
    store = find_store(ArtifactShelf(made[0]), read_result(path)).folder
    broken = min(store.glob("values-*.npy"))
    kept = broken.read_bytes()
    broken.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    try:
        words = [str(path), "--store", str(made[0]), "--out", str(tmp_path), "--sample", "odd:4"]
        assert main(words) == 2
        assert f"{store.name} is damaged" in capsys.readouterr().err
    finally:
        broken.write_bytes(kept)
