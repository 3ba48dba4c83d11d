"""The feature pass: right values, whatever the batching, padding, sharding or interruptions."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from coincide.config import FeaturePass
from coincide.features.engine.shards import (
    ShardedArray,
    has_shard,
    read_valid,
    remove_misfits,
    write_shard,
)
from coincide.features.extract import extract, signal_step
from coincide.features.forward import packed, walk
from coincide.features.passes.reference import ReferencePass
from coincide.features.signals.activations import Activations
from coincide.features.signals.bridging import Bridging
from coincide.features.signals.hidden_last import HiddenLast
from coincide.features.signals.hidden_mean import HiddenMean
from coincide.features.signals.hidden_weighted import HiddenWeighted
from coincide.features.signals.neurons import Neurons
from coincide.features.signals.token_scores import TokenScores
from coincide.features.signals.token_scores_blind import TokenScoresBlind
from coincide.features.signals.token_scores_masked import TokenScoresMasked
from coincide.features.signals.token_scores_unasked import TokenScoresUnasked
from coincide.features.signals.visual_attended import VisualAttended
from coincide.features.signals.visual_mean import VisualMean
from coincide.schema import Signal
from coincide.store import Artifact, Store
from tests.features.conftest import Model, Source, rows
from tests.features.plain import FEW, signals_of_rows

ALL = (
    Activations((0, 1)),
    HiddenLast(),
    HiddenMean(),
    TokenScores(),
    TokenScoresBlind(),
    TokenScoresUnasked(),
    TokenScoresMasked(),
    VisualMean(0),
    VisualAttended(),
    HiddenWeighted(),
    HiddenWeighted("text"),
    Bridging((0, 1)),
    Neurons((0, 1), 8),
)


def run_pass(
    root: Path, source: Source, model: Model, signals: tuple[Signal, ...] = ALL, **options: object
) -> list[Artifact]:
    store = Store(root)
    data, base = source.step(), model.step()
    store.ensure(data)
    store.ensure(base)
    over = ReferencePass(model, source, "float64", FeaturePass(**options))  # type: ignore[arg-type]
    steps = {s: signal_step(s, over, data=data, base=base) for s in signals}
    return extract(store, steps, over)


@pytest.fixture(scope="module")
def artifacts(
    tmp_path_factory: pytest.TempPathFactory, source: Source, model: Model
) -> list[Artifact]:
    return run_pass(tmp_path_factory.mktemp("store"), source, model, share_prefixes=False)


@pytest.fixture(scope="module")
def alone(
    artifacts: list[Artifact], source: Source, model: Model
) -> dict[int, dict[str, np.ndarray]]:
    folder = next((artifacts[0].path.parent.parent / "model").iterdir()) / "model"
    return signals_of_rows(folder, source, model)


def test_activations_are_the_pooled_attention_outputs(
    artifacts: list[Artifact], alone: dict[int, dict[str, np.ndarray]]
) -> None:
    values = ShardedArray(artifacts[0].path)
    assert values.dtype == np.float16
    assert values.shape == (24, 2 * 2 * 32)
    for row, expected in alone.items():
        if row == 3:
            continue
        np.testing.assert_array_equal(values[row], expected["activations"].astype(np.float16))
    norms = np.linalg.norm(values[:].astype(np.float64), axis=1)
    np.testing.assert_allclose(np.delete(norms, 3), 1, atol=2e-3)
    assert not values[0][:32].any()  # text alone: the visual half is zero


def test_released_shards_are_read_again(tmp_path: Path) -> None:
    whole = np.arange(24, dtype=np.float16).reshape(6, 4)
    for i in range(3):
        np.save(tmp_path / f"values-{i:05d}.npy", whole[2 * i : 2 * i + 2])
    values = ShardedArray(tmp_path)
    np.testing.assert_array_equal(values[:], whole)

    def mapped() -> int:
        return Path("/proc/self/maps").read_text(encoding="utf-8").count(str(tmp_path))

    assert mapped() == 3
    values.release()
    assert mapped() == 0
    rows = np.array([5, 0])
    for index in (
        rows,
        (rows, 1),
        (rows, [1, 3]),
        (slice(1, 4), 2),
        (slice(None), slice(2)),
        (4, 0),
    ):
        np.testing.assert_array_equal(values[index], whole[index])


@pytest.mark.parametrize(("index", "name"), [(1, "hidden_last"), (2, "hidden_mean")])
def test_hidden_states_ignore_padding(
    artifacts: list[Artifact], alone: dict[int, dict[str, np.ndarray]], index: int, name: str
) -> None:
    values = ShardedArray(artifacts[index].path)
    for row in set(alone) - {3}:
        np.testing.assert_array_equal(values[row], alone[row][name].astype(np.float16))


def test_token_scores_are_the_models_own_loss(
    artifacts: list[Artifact], alone: dict[int, dict[str, np.ndarray]]
) -> None:
    values = ShardedArray(artifacts[3].path)[:]
    assert values.dtype == np.float32
    for row in set(alone) - {3, 9}:
        assert values[row, 2] == pytest.approx(float(alone[row]["nll"]), rel=1e-6)
        assert values[row, 3] == alone[row]["answers"]
        assert 0 < values[row, 0] < np.sqrt(2)
    assert np.flatnonzero(values[:, 3] == 0).tolist() == [3, 9]  # dropped; an empty answer
    assert np.isnan(values[9, :3]).all()


def test_blind_and_unasked_scores_are_the_models_own_losses(
    artifacts: list[Artifact], alone: dict[int, dict[str, np.ndarray]]
) -> None:
    nll, blind, unasked, masked = (ShardedArray(artifacts[i].path)[:] for i in (3, 4, 5, 6))
    assert blind.dtype == unasked.dtype == np.float32
    assert blind.shape == unasked.shape == (24, 1)
    for row in set(range(FEW)) - {3, 9}:
        assert blind[row, 0] == pytest.approx(float(alone[row]["blind"]), rel=1e-6)
        assert unasked[row, 0] == pytest.approx(float(alone[row]["unasked"]), rel=1e-6)
        assert masked[row, 0] == pytest.approx(float(alone[row]["masked"]), rel=1e-6)
    assert np.isnan(blind[9]) and np.isnan(unasked[9])  # an empty answer
    text_only = [row for row in range(24) if row % 6 == 0]
    np.testing.assert_array_equal(blind[text_only, 0], nll[text_only, 2])
    np.testing.assert_array_equal(masked[text_only, 0], nll[text_only, 2])
    seeing = np.setdiff1d(range(24), [*text_only, 3, 9])
    assert (np.abs(blind[seeing, 0] - nll[seeing, 2]) > 1e-6).all()


def test_one_more_glance_is_what_plain_transformers_shows(
    artifacts: list[Artifact], alone: dict[int, dict[str, np.ndarray]]
) -> None:
    names = ("visual_mean", "visual_attended", "hidden_weighted", "hidden_weighted_text",
             "bridging", "neurons")  # fmt: skip
    found = {n: ShardedArray(a.path)[:] for n, a in zip(names, artifacts[7:], strict=True)}
    for row in set(range(FEW)) - {3}:
        for name in (names[0], names[2], names[3]):
            stored = alone[row][name].astype(np.float16)
            np.testing.assert_array_equal(found[name][row], stored, err_msg=f"{name} {row}")
        attended = alone[row]["visual_attended"]
        np.testing.assert_allclose(found["visual_attended"][row], attended, atol=1e-5)
        bridging = pytest.approx(alone[row]["bridging"], abs=2e-6, nan_ok=True)
        assert found["bridging"][row, 0] == bridging
        if row != 9:  # an empty answer
            np.testing.assert_array_equal(found["neurons"][row], alone[row]["neurons"])
    assert np.isnan(found["neurons"][9]).all() and np.isnan(found["bridging"][[0, 9], 0]).all()
    for name in names[:2]:
        assert not found[name][0].any(), "text alone"


def test_a_variant_alone_gives_what_it_gives_beside_the_whole_rows(
    tmp_path: Path, artifacts: list[Artifact], source: Source, model: Model
) -> None:
    """Alone, nothing that rows share is run ahead of it."""
    for beside, signal in enumerate(ALL[4:7], start=4):
        (one,) = run_pass(tmp_path, source, model, (signal,))
        ours, theirs = ShardedArray(one.path)[:], ShardedArray(artifacts[beside].path)[:]
        np.testing.assert_array_equal(ours, theirs)


def test_dropped_rows_are_marked_not_invented(artifacts: list[Artifact]) -> None:
    for artifact in artifacts:
        valid = read_valid(artifact.path)
        assert np.flatnonzero(~valid).tolist() == artifact.facts["invalid_rows"] == [3]


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 1},
        {"batch_size": 8},
        {"batch_tokens": 300},
        {"batch_size": 5, "shard_rows": 2},
        {"shard_rows": 7},
        {"shard_rows": 7, "share_prefixes": False},
    ],
)
def test_the_same_values_however_they_are_computed(
    tmp_path: Path, artifacts: list[Artifact], source: Source, model: Model, options: dict
) -> None:
    for ours, theirs in zip(artifacts, run_pass(tmp_path, source, model, **options), strict=True):
        first, second = ShardedArray(ours.path)[:], ShardedArray(theirs.path)[:]
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("differs", [False, True])
def test_what_rows_of_one_picture_begin_with_runs_once(
    tmp_path: Path, artifacts: list[Artifact], source: Source, model: Model,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], differs: bool,
) -> None:  # fmt: skip
    """Where a model's states are others, the rows run one by one, and the pass says so."""
    ran: list[list[int]] = []
    real = packed.pack

    def pack(groups: Any, *more: Any) -> Any:
        ran.append([len(group) for group in groups])
        found = real(groups, *more)
        lengths = found.inputs["input_ids"].shape[1], *map(packed.packed_length, groups)
        assert max(lengths[1:]) == lengths[0]
        return found

    monkeypatch.setattr(packed, "pack", pack)
    if differs:
        monkeypatch.setattr(packed, "largest_difference", lambda *_: float("nan"))
    found = run_pass(tmp_path, source, model, batch_size=11)
    for ours, theirs in zip(found, artifacts, strict=True):
        np.testing.assert_array_equal(ShardedArray(ours.path)[:], ShardedArray(theirs.path)[:])
    told = "rows that begin alike run one by one" in capsys.readouterr().out
    assert (len(ran) == 1 and told) if differs else (sum(map(sum, ran)) > 12 and not told)
    assert max(map(max, ran)) == 4, "four rows show one picture"
    ran.clear()
    run_pass(tmp_path / "off", source, model, (HiddenLast(),), share_prefixes=False)
    assert not ran


def test_batches_hold_rows_of_like_length_within_the_token_budget() -> None:
    random = np.random.default_rng(0)
    lengths = random.lognormal(4, 0.8, 2000).astype(int).clip(1)
    # as they come: about the longest first, with short ones among them that share an image
    order = np.argsort(-lengths * np.where(random.random(2000) < 0.1, 3, 1), kind="stable")
    rows = [[(int(i), {"whole": SimpleNamespace(input_ids=range(lengths[i]))})] for i in order]
    options = FeaturePass(batch_size=50, batch_tokens=2000)
    batches = list(walk._batches(iter(rows), lambda: options))  # type: ignore[arg-type]
    places = [[place for ((place, _),) in batch] for batch in batches]
    assert sorted(place for batch in places for place in batch) == list(range(2000))
    padded = [len(batch) * lengths[batch].max() for batch in places]
    assert all(len(batch) <= 50 for batch in places)
    assert all(p <= 2000 or len(b) == 1 for p, b in zip(padded, places, strict=True))
    assert lengths.sum() > 0.9 * sum(padded), "a tenth is padding at most"


def test_one_pass_gives_what_separate_passes_give(
    tmp_path: Path, artifacts: list[Artifact], source: Source, model: Model
) -> None:
    """Also with the layers after the last one needed left out."""
    (first,) = run_pass(tmp_path, source, model, (Activations((0,)),))
    both = ShardedArray(artifacts[0].path)[:][:, :64].astype(np.float64)
    both /= np.linalg.norm(both, axis=1, keepdims=True).clip(1e-9)
    np.testing.assert_allclose(ShardedArray(first.path)[:], both, atol=1e-3)


def test_forward_passes_are_counted_once_for_all_signals(
    tmp_path: Path, source: Source, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coincide.features.forward import capture

    seen: list[int] = []
    real = capture.run
    monkeypatch.setattr(
        capture, "run", lambda m, b, *more: (seen.append(len(b["input_ids"])), real(m, b, *more))[1]
    )
    run_pass(tmp_path, source, model, ALL[:4])
    assert sum(seen) == 23
    run_pass(tmp_path, source, model, ALL[:4])
    assert sum(seen) == 23


def test_each_variant_runs_once_and_no_token_twice(
    tmp_path: Path, source: Source, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the 23 rows four have no image, and so no blind variant; what unasked rows begin with,
    system prompt and images, is left to them by the whole rows."""
    from coincide.features.forward import capture

    seen: list[torch.Tensor] = []
    real = capture.run

    def run(network: Any, batch: Any, *more: Any) -> Any:
        seen.append(batch["attention_mask"].sum(dim=1))
        return real(network, batch, *more)

    monkeypatch.setattr(capture, "run", run)
    run_pass(tmp_path, source, model, (TokenScores(), TokenScoresBlind(), TokenScoresUnasked()))
    lengths = torch.cat(seen)
    assert len(lengths) == 23 + 19 + 23
    longest = 8 + max(len(" ".join(t.text for t in e.turns if t.role == "gpt")) for e in rows())
    assert int((lengths <= longest).sum()) >= 23, "the rest of an unasked row is its answers"


@pytest.mark.parametrize(
    "spoil", [None, '{"rows": 24, "shard_rows": 4}', "[" * 100_000], ids=["", "edited", "deep"]
)
def test_a_killed_pass_resumes_at_the_last_finished_shard(
    tmp_path: Path, artifacts: list[Artifact], source: Source, model: Model,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], spoil: str | None,
) -> None:  # fmt: skip
    """The old layout is kept, and told by the shards where it was damaged."""
    from coincide.features.engine import work as module

    real = module.write_shard

    def dies(folder: Path, index: int, *values: np.ndarray) -> None:
        if index == 3:
            raise KeyboardInterrupt
        real(folder, index, *values)

    monkeypatch.setattr(module, "write_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        run_pass(tmp_path, source, model, shard_rows=5)
    monkeypatch.setattr(module, "write_shard", real)
    for layout in tmp_path.rglob("layout.json") if spoil is not None else ():
        layout.write_text(spoil)
    again = run_pass(tmp_path, source, model, shard_rows=24)
    assert "resumed with 10 of 24 rows done" in capsys.readouterr().out
    for ours, theirs in zip(artifacts, again, strict=True):
        np.testing.assert_array_equal(ShardedArray(ours.path)[:], ShardedArray(theirs.path)[:])
    assert not list((tmp_path / "features").glob(".*"))


def test_a_pass_killed_while_its_units_become_shards_computes_nothing_again(
    tmp_path: Path, artifacts: list[Artifact], source: Source, model: Model,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from coincide.features import extract as pass_of
    from coincide.features.engine import units

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(units, "write_shard", stop)
        with pytest.raises(KeyboardInterrupt):
            run_pass(tmp_path, source, model, ALL[:3], shard_rows=5)
    monkeypatch.setattr(pass_of, "_run", stop)
    again = run_pass(tmp_path, source, model, ALL[:3], shard_rows=5)
    for ours, theirs in zip(artifacts, again, strict=False):
        np.testing.assert_array_equal(ShardedArray(ours.path)[:], ShardedArray(theirs.path)[:])
    assert not list((tmp_path / "features").glob(".*"))


def test_shards_of_another_size_stand_for_other_rows_and_go(tmp_path: Path) -> None:
    folder = tmp_path
    for index, count in enumerate((5, 5, 7, 5, 3)):
        write_shard(folder, index, np.zeros((count, 2), np.float16), np.ones(count, bool))
    (folder / "values-00001.npy").write_bytes(b"")
    write_shard(folder, 7, np.zeros((5, 2), np.float16), np.ones(5, bool))
    gone = ["valid-00002", "valid-00007", "values-00001", "values-00002", "values-00007"]
    assert remove_misfits(folder, 23, 5) == [f"{name}.npy" for name in gone]
    assert [has_shard(folder, i) for i in range(5)] == [True, False, False, True, True]


def test_a_damaged_shard_is_rebuilt_alone(tmp_path: Path, source: Source, model: Model) -> None:
    (artifact,) = run_pass(tmp_path, source, model, (HiddenMean(),), shard_rows=8)
    shard = artifact.path / "values-00001.npy"
    good = shard.read_bytes()
    shard.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    other = (artifact.path / "values-00000.npy").stat().st_mtime_ns
    over = ReferencePass(model, source, "float64", FeaturePass())
    step = signal_step(HiddenMean(), over, data=source.step(), base=model.step())
    Store(tmp_path).verify(step)
    assert shard.read_bytes() == good
    assert (artifact.path / "values-00000.npy").stat().st_mtime_ns == other
