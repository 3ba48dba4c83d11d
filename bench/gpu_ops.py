"""What selects rows, for ``bench.gpu``: k-means, nearest neighbours, greedy MMD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from bench import kmeans as bench_kmeans
from bench import made, selection
from bench.gpu_found import Found, Setting, fits
from bench.kmeans import LLAVA, SEED, Part, Size, objective
from bench.watch import clock
from coincide.ops.arrays import row_digests
from coincide.ops.kernel import gaussian_kernel
from coincide.ops.kmeans import spherical_kmeans
from coincide.ops.kmeans.lloyd import start_centroids
from coincide.ops.knn import knn as nearest
from coincide.ops.mmd import greedy_mmd

LLOYD_TILE = 8192
NEIGHBOURS = 5


def kmeans(setting: Setting, found: Found) -> None:
    """LLaVA-665K's features in 10,000 clusters, beside plain Lloyd from the same start; of a small
    clustering the bytes are compared with the CPU's. Making the features is not timed."""
    small = setting.folder / "small"
    bench_kmeans.make(small, 4096, 272)
    x: Any = Part(small, 4096)
    pairs = [spherical_kmeans(x, 1000, 3, SEED, device=d) for d in ("cpu", setting.device)]
    same = all(a.tobytes() == b.tobytes() for a, b in zip(*pairs, strict=True))
    found.put(compared={"4,096 x 272, K = 1,000": "the same bytes" if same else "OTHER BYTES"})
    size = Size(LLAVA, 2048, 10_000, 20) if setting.full else Size(2048, 32, 20, 4)
    size = sized(setting, found, size)
    folder = setting.folder / "features"
    bench_kmeans.make(folder, size.rows, size.width)
    x = Part(folder, size.rows)
    with clock() as spent:
        centroids, assignment = spherical_kmeans(
            x, size.clusters, size.iterations, SEED, device=setting.device
        )
        setting.finish()
    ours = objective(x, centroids, assignment)
    shape = f"{size.rows:,} x {size.width:,}, K = {size.clusters:,}, {size.iterations} iterations"
    found.put(figures={"size": shape, "seconds": spent.wall, "mean cosine": ours})
    plain = Lloyd.of(x, size, setting)
    figures = {
        "plain Lloyd, seconds": plain.seconds,
        "plain Lloyd, mean cosine": objective(x, plain.centroids, plain.assignment),
        "plain Lloyd / ours": plain.seconds / spent.wall,
    }
    found.put(figures=figures)


def sized(setting: Setting, found: Found, size: Size) -> Size:
    """``size`` with as many rows as can be made and clustered in time."""
    probe = min(size.rows, 4 * size.clusters)
    folder = setting.folder / "probe"
    with clock() as making:
        bench_kmeans.make(folder, probe, size.width)
    x: Any = Part(folder, probe)
    spherical_kmeans(x, size.clusters, 1, SEED, device=setting.device)  # warm
    with clock() as two:
        spherical_kmeans(x, size.clusters, 1, SEED, device=setting.device)
        setting.finish()
    both = 2 * size.passes / 2 * two.wall  # ours and plain Lloyd, at the speed of two assignments
    rows = found.cut("rows", size.rows, fits(making.wall + both, probe, 0.8 * setting.seconds))
    return Size(rows, size.width, size.clusters, size.iterations)


@dataclass(frozen=True)
class Lloyd:
    """What plain Lloyd found, written as one would in torch."""

    seconds: float
    centroids: np.ndarray
    assignment: np.ndarray

    @classmethod
    def of(cls, x: Any, size: Size, setting: Setting) -> Lloyd:
        """All cosines in float32, every iteration; the rows lie on the device in float16.

        Copying them there counts, reading them from disk does not. An empty cluster stays.
        """
        centroids = start_centroids(x, row_digests(x), size.clusters, SEED, setting.device)
        rows = np.array(x[:])
        with clock() as spent:
            held = torch.from_numpy(rows).to(setting.device)
            for _ in range(size.iterations):
                sums = torch.zeros_like(centroids)
                for tile in held.split(LLOYD_TILE):
                    unit = normalize(tile.float())
                    sums.index_add_(0, (unit @ centroids.T).argmax(1), unit)
                empty = (sums == 0).all(1, keepdim=True)
                centroids = torch.where(empty, centroids, normalize(sums))
            last = [(normalize(t.float()) @ centroids.T).argmax(1) for t in held.split(LLOYD_TILE)]
            assignment = torch.cat(last).cpu()
        return cls(spent.wall, centroids.cpu().numpy(), assignment.numpy())


def knn(setting: Setting, found: Found) -> None:
    """All exact nearest neighbours, in float64; time grows with the square of the rows."""
    few = random_rows(2500, 96)
    pairs = [nearest(few, NEIGHBOURS, device=device) for device in ("cpu", setting.device)]
    same = all(a.tobytes() == b.tobytes() for a, b in zip(*pairs, strict=True))
    found.put(compared={"2,500 x 96": "the same bytes" if same else "OTHER BYTES"})
    most, probe, width = (131_072, 16_384, 2048) if setting.full else (2048, 1024, 32)
    x = random_rows(most, width)
    nearest(x[:probe], NEIGHBOURS, device=setting.device)  # warm
    seconds = timed_knn(setting, x[:probe])
    rows = found.cut("rows", most, fits(seconds, probe, setting.seconds / 2, power=2))
    seconds = timed_knn(setting, x[:rows])
    rate = float(rows) ** 2 * width / seconds
    shape = f"{rows:,} x {width:,}, {NEIGHBOURS} neighbours"
    found.put(figures={"size": shape, "seconds": seconds, "float64 FLOP/s, each pair once": rate})


def timed_knn(setting: Setting, x: np.ndarray) -> float:
    """Seconds of all neighbours of ``x``, which come back to the CPU."""
    with clock() as spent:
        nearest(x, NEIGHBOURS, device=setting.device)
    return spent.wall


def random_rows(rows: int, width: int) -> np.ndarray:
    """float16 [rows, width]; what they hold does not change the time."""
    random = torch.Generator().manual_seed(SEED)
    return torch.randn(rows, width, generator=random).half().numpy()


def mmd(setting: Setting, found: Found) -> None:
    """Density, greedy MMD orders and allocation of a 20 % budget: on this machine's processors,
    for they have no form on a GPU. The order of a small cluster is compared with the published
    rule's, whose sums are rebuilt at every step."""
    kernel = gaussian_kernel(random_rows(60, 32) / np.float16(8), selection.GAMMA)
    same = greedy_mmd(kernel, 12).tolist() == selection.published_greedy(kernel, 12)
    told = "the same order" if same else "ANOTHER ORDER"
    found.put(compared={"60 rows, the published rule": told})
    most, probe, width = (LLAVA, 20_000, 2048) if setting.full else (2000, 1000, 32)
    with clock() as spent:
        figures = select(setting, probe, width)
    found.put(figures={"runs on": f"CPU, {torch.get_num_threads()} threads", **figures})
    rows = found.cut("rows", most, fits(spent.wall, probe, setting.seconds - spent.wall))
    found.put(figures=select(setting, rows, width))


def select(setting: Setting, rows: int, width: int) -> dict[str, Any]:
    """Seconds over clusters of 66 rows on average, whose sizes fall as a power of their rank."""
    folder = setting.folder / f"clusters{rows}-{width}"
    largest = min(5000, rows // 10)
    if not folder.exists():
        made.make(folder, made.cluster_sizes(rows, rows // 66, largest), 1, width)
    got = selection.selection_step(made.load(folder, None), None)
    return {
        "size": f"{rows:,} x {width:,}, largest cluster {largest:,}",
        "plan (transferability, density, orders), seconds": got["plan"]["wall"],
        "rows of a 20 % budget, seconds": got["pick"]["wall"],
        "a fifth of every cluster instead, seconds": got["fifth"]["wall"],
    }
