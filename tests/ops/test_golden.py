"""Our numbers beside those of the published reference implementation (tests/assets/golden).

Compared: transferability, density, score, processing order, targets, counts, the rows selected and
their order, greedy MMD orders, EL2N and AUM.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from coincide import method
from coincide.method import VARIANTS, plan_clusters, select_coincide
from coincide.ops import allocate as allocation
from coincide.ops import scores
from coincide.ops.allocate import allocate
from coincide.ops.density import cluster_density
from coincide.ops.mmd import gaussian_kernel, greedy_mmd, greedy_mmd_rows
from coincide.ops.transfer import transferability

GOLDEN = Path(__file__).parents[1] / "assets" / "golden"
TIE = 1e-12


@pytest.fixture(scope="module")
def coincide():
    return dict(np.load(GOLDEN / "coincide_N2000_s0.npz"))


@pytest.fixture(scope="module")
def mmd():
    return dict(np.load(GOLDEN / "mmd_N2000_s0.npz"))


@pytest.fixture(scope="module")
def tokens():
    return dict(np.load(GOLDEN / "scores_s0.npz"))


def test_transferability(coincide):
    ours = transferability(coincide["centroids"], layers=int(coincide["layers"]))
    np.testing.assert_allclose(ours, coincide["transfer"], rtol=1e-6)  # the reference: float32


@pytest.fixture
def ties(coincide, monkeypatch):
    """Clusters of one score in the order of the released code, which depends on its CPU."""

    def follow(i):
        for module in (method, allocation):
            monkeypatch.setattr(module, "processing_order", lambda *_: coincide[f"c{i}_order"])

    return follow


def _plan(coincide, i):
    _, temperature, gamma = coincide["configs"][i]
    k = int(coincide[f"c{i}_target_total"])
    layers = int(coincide["layers"])
    return plan_clusters(
        coincide["emb"],
        coincide["assign"],
        coincide["centroids"],
        k,
        layers,
        temperature,
        gamma,
        VARIANTS["released"],
    )


@pytest.mark.parametrize("i", range(6))
def test_allocation_of_the_released_code(coincide, ties, i):
    order = coincide[f"c{i}_order"]
    ours = _plan(coincide, i)
    assert sorted(ours.order) == sorted(order)
    np.testing.assert_allclose(ours.score[ours.order], ours.score[order], rtol=1e-12)
    ties(i)
    plan = _plan(coincide, i)
    np.testing.assert_allclose(plan.density, coincide[f"c{i}_density"], rtol=1e-9)
    np.testing.assert_allclose(
        plan.score, coincide["transfer"] / coincide[f"c{i}_density"], rtol=1e-6
    )
    np.testing.assert_array_equal(plan.target[order], coincide[f"c{i}_targets"])
    np.testing.assert_array_equal(plan.counts[order], coincide[f"c{i}_counts"])


@pytest.mark.parametrize("i", range(6))
def test_score_and_counts_from_the_reference_transferability(coincide, ties, i):
    ties(i)
    k, temperature = int(coincide[f"c{i}_target_total"]), coincide["configs"][i, 1]
    plan = _plan(coincide, i)
    score = coincide["transfer"] / plan.density
    np.testing.assert_allclose(score, coincide[f"c{i}_score"], rtol=1e-9)
    counts = allocate(score, np.bincount(coincide["assign"]), k, temperature)
    np.testing.assert_array_equal(counts[coincide[f"c{i}_order"]], coincide[f"c{i}_counts"])


@pytest.mark.parametrize("i", range(6))
def test_selection_of_the_released_code(coincide, ties, i):
    ties(i)
    _, temperature, gamma = coincide["configs"][i]
    k = int(coincide[f"c{i}_target_total"])
    data = coincide["emb"], coincide["assign"], coincide["centroids"], k
    options = {"layers": int(coincide["layers"]), "temperature": temperature, "gamma": gamma}
    ours = select_coincide(*data, **options, exact=False)
    np.testing.assert_array_equal(ours, coincide[f"c{i}_selected"])
    topped_up = select_coincide(*data, **options)
    np.testing.assert_array_equal(topped_up[: len(ours)], ours)
    assert len(set(topped_up.tolist())) == len(topped_up) == k


@pytest.mark.parametrize("g", range(2))
@pytest.mark.parametrize("s", range(6))
def test_kernel_density_and_greedy_order(mmd, s, g):
    x, gamma = mmd[f"x{s}"], float(mmd["gamma"][g])
    expected, gap = mmd[f"order{s}_g{g}"], mmd[f"step_gap{s}_g{g}"]
    kernel = gaussian_kernel(x, gamma)
    if f"K{s}_g{g}" in mmd:
        np.testing.assert_allclose(kernel, mmd[f"K{s}_g{g}"], rtol=1e-9)
    assert cluster_density(x, gamma) == pytest.approx(float(mmd[f"density{s}_g{g}"]), rel=1e-9)

    ours = greedy_mmd(kernel, len(expected))
    tied = np.flatnonzero(gap <= TIE)
    free_of_ties = tied[0] if len(tied) else len(expected)
    np.testing.assert_array_equal(ours[:free_of_ties], expected[:free_of_ties])
    # Beyond a tie the orders may name different copies of a row, but never different rows.
    if mmd["names"][s] == "dups3x":
        np.testing.assert_array_equal(x[ours], x[expected])
    np.testing.assert_array_equal(greedy_mmd_rows(x, gamma, len(ours), kernel_rows=7), ours)


@pytest.mark.parametrize("name", ["el2n", "aum"])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float16, 1e-3)])
def test_token_scores(tokens, name, dtype, atol):
    logits, labels = torch.from_numpy(tokens["logits"]), torch.from_numpy(tokens["labels"])
    ours = getattr(scores, name)(logits.to(dtype), labels)
    assert ours.dtype == torch.float32
    empty = tokens["nan_to_zero"]
    np.testing.assert_array_equal(np.isnan(ours.numpy()), empty)
    reference = tokens[f"{name}_{'fp32' if dtype == torch.float32 else 'fp16'}"]
    np.testing.assert_allclose(ours.numpy()[~empty], reference[~empty], rtol=0, atol=atol)
