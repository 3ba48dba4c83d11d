"""Projected features: the same bits everywhere, cosines kept, parts still apart."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from coincide.features.engine.shards import ShardedArray
from coincide.features.extract import signal_step
from coincide.features.forward.projection import QUANTUM, Projection, project, signs
from coincide.features.passes.reference import ReferencePass
from coincide.features.signals.activations import Activations
from coincide.ledger.collect import variant_of
from coincide.method import Coincide
from coincide.report.compare import panels
from coincide.schema import UserError
from tests.features.conftest import Model, Source
from tests.features.test_extract import run_pass
from tests.report.fixture import result

P = Projection(1024, 1234, 10)
"""Five layers of TinyLLaVA-2B."""


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_matrix_has_the_same_bytes_on_every_machine() -> None:
    found = signs(P, 3, 1, 2048)
    assert found.shape == (2048, 102) and found.dtype == np.int8
    assert hashlib.sha256(found.tobytes()).hexdigest()[:16] == "7875fedad9fa1bf1"
    assert set(np.unique(found)) == {-1, 1}
    assert abs(found.mean()) < 4 / np.sqrt(found.size)
    others = (signs(P, 3, 0, 2048), signs(P, 7, 1, 2048), signs(replace(P, seed=1), 3, 1, 2048))
    for other in others:  # each part, and each seed, has signs of its own
        assert abs((found == other).mean() - 0.5) < 0.01


def test_sums_are_exact_so_that_no_order_or_batch_can_change_them() -> None:
    rows = unit(np.random.default_rng(0).standard_normal((37, 2048)))
    found = project(torch.from_numpy(rows), P, 3, 0).numpy()
    whole = np.rint(rows / QUANTUM).astype(np.int64) @ signs(P, 3, 0, 2048).astype(np.int64)
    np.testing.assert_array_equal(found, whole * QUANTUM)
    backwards = project(torch.from_numpy(rows[::-1].copy()), P, 3, 0).numpy()[::-1]
    alone = [project(torch.from_numpy(row[None]), P, 3, 0).numpy()[0] for row in rows]
    np.testing.assert_array_equal(found, backwards)
    np.testing.assert_array_equal(found, np.stack(alone))


def test_cosines_are_kept_to_the_root_of_the_dimensions() -> None:
    """The variance of the cosine of two projected vectors is about (1 - cosine²)² / columns."""
    random = np.random.default_rng(1)
    rows = unit(random.standard_normal((60, 2048)) + 1.5 * random.standard_normal(2048))
    found = unit(project(torch.from_numpy(rows), P, 3, 1).numpy())
    pairs = np.triu_indices(60, 1)
    cosine = (rows @ rows.T)[pairs]
    assert 0.6 < cosine.mean() < 0.8
    error = (found @ found.T)[pairs] - cosine
    assert 0.2 / np.sqrt(102) < np.sqrt((error**2).mean()) < 1 / np.sqrt(102)


def test_the_pass_projects_each_part_and_scales_it_as_it_scales_the_whole(
    tmp_path: Path, source: Source, model: Model
) -> None:
    both = (Activations((0, 1)), Activations((0, 1), 40))
    whole, projected = (
        ShardedArray(a.path)[:].astype(np.float64)
        for a in run_pass(tmp_path, source, model, both, batch_size=5)
    )
    assert projected.shape == (24, 40)
    text_only = [row for row in range(24) if not whole[row, :32].any()]
    assert text_only == [0, 3, 6, 12, 18]  # 3 was dropped by a policy
    shape = Projection(40, 1234, 4)
    for i, (layer, modality) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        part = whole[:, 32 * i : 32 * (i + 1)] @ signs(shape, layer, modality, 32)
        norm = np.linalg.norm(part, axis=1, keepdims=True)
        found = projected[:, 10 * i : 10 * (i + 1)]
        parts = np.where([[row in text_only] for row in range(24)], 2, 4)
        expected = part / norm.clip(1e-9) / np.sqrt(parts)
        np.testing.assert_allclose(found, expected, atol=2e-3)
        if modality == 0:
            assert not found[text_only].any()


def test_the_projection_is_in_the_key_and_without_one_nothing_changes(
    source: Source, model: Model
) -> None:
    from coincide.config import FeaturePass

    over = ReferencePass(model, source, "float64", FeaturePass())
    data, base = source.step(), model.step()
    signals = [Activations((0, 1)), *(Activations((0, 1), d, s) for d, s in ((40, 1), (40, 2)))]
    steps = [signal_step(s, over, data=data, base=base) for s in [*signals, Activations((0, 1), 8)]]
    assert len({step.key for step in steps}) == 4
    assert steps[1].config["params"] == {"layers": [0, 1], "projection": 40, "projection_seed": 1}
    assert steps[1].name == "activations_40-tiny_llava-pool"
    assert steps[0].config["params"] == {"layers": [0, 1]}
    plain = Coincide(layers=(0, 1), clusters=3)
    assert "projection" not in plain.key_config()
    assert replace(plain, projection=40).key_config()["projection"] == 40


@pytest.mark.parametrize("dimensions", [3, 128, 1024])
def test_a_projection_that_does_not_shrink_the_features_is_refused(
    tmp_path: Path, source: Source, model: Model, dimensions: int
) -> None:
    with pytest.raises(UserError, match="the features have 128 columns in 4 parts"):
        run_pass(tmp_path, source, model, (Activations((0, 1), dimensions),))


@pytest.mark.parametrize("wrong", [3, 0, -1024, True, 1024.0, "1024"])
def test_a_wrong_number_of_dimensions_is_refused(wrong: object) -> None:
    with pytest.raises(UserError, match=r"method.projection: got .*; expected null or"):
        Coincide(layers=(0, 1), clusters=3, projection=wrong)  # type: ignore[arg-type]


def test_widths() -> None:
    layers = (3, 7, 11, 15, 19)
    assert [Activations(layers, d).width(2048) for d in (None, 1024, 2048)] == [20480, 1020, 2040]


def test_the_report_names_a_projection_and_only_that() -> None:
    plain = Coincide(layers=(0, 1), clusters=3)
    methods = (plain, replace(plain, projection=1024))
    assert [variant_of(method) for method in methods] == [
        "released",
        "released, projected to 1,024",
    ]
    runs = [
        result(
            "coincide", 0, (70.0,), variant=variant_of(method),
            config={"method": {"name": "coincide", "projection": method.projection}},
        )
        for method in methods
    ]  # fmt: skip
    old = result("coincide", 1, (70.0,), config={"method": {"name": "coincide"}})
    (panel,) = panels([*runs, old])
    assert {row.label: len(row.runs) for row in panel.rows} == {
        "coincide (released)": 2,  # one of them of a ledger from before there were projections
        "coincide (released, projected to 1,024)": 1,
    }


def test_the_bench_compares_with_the_features_as_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from bench import projection

    found = projection.main(["--rows", "160", "--clusters", "4", "--dimensions", "2048", "100"])
    told = capsys.readouterr().out
    whole, wide, narrow = (
        next(row for row in told.splitlines() if row.startswith(name))
        for name in ("as", "2,048", "100")
    )
    assert whole.split()[3:6] == ["20,480", "6.6", "27.25"]
    assert whole.split()[-2:] == ["1.000", "1.000"]
    assert narrow.split()[1:4] == ["100", "0.0", "0.13"]
    assert narrow.split()[-3] == f"{found['100']:.3f}"
    assert 0.8 < float(wide.split()[-2]) <= 1, "in the same clusters each gives about as many"
