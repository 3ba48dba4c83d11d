"""PreSel: choose pictures before their instructions exist.

1. Reference set R: a few of the pictures of every task, at random, with their rows. The target is
   finetuned on R: the reference model.
2. Task value v_t: mean over the rows of R of task t of a / b, where a is the mean negative
   log-likelihood of the answers given picture and questions, and b that of all answers joined into
   one given the picture alone, both by the reference model. Weight w = softmax(-v / τ),
   τ = 1 / √T for T tasks: small ratios, tasks whose questions matter, get more.
3. Task t gives w_t of what is left of the budget. Its pictures are clustered (embeddings of unit
   length, ``share`` of the pictures as K); every cluster gives in proportion to what it has left.
4. In a cluster: typicality of a picture = mean cosine to its ``neighbors`` nearest there; the
   highest first. The subset is R and what was chosen.

From: Safaei et al. 2025 ("Filter Images First, Generate Instructions Later") and its code (MIT):
LLaVA-665K at 15 %, 5 % of it R, DINOv2-base, K 1 % of the task, 5 neighbours, k-means seed 12345.
The code calls the two losses perplexities; they are losses, as here.

Ours differs. Tasks are the sources of the rows; which ten the code has is not in it. Features are
one per distinct picture (``unique_images``): the code has one per row, so that rows which share a
picture are each other's nearest neighbours and copies of a picture come first. ``rows_per_image``
says whether a chosen picture brings all its rows, as the code's reference set does, or the first.
Quotas are whole by largest remainder, and full sources and clusters pass on what they cannot give;
``quotas: released`` rounds sources down and repairs clusters by at most one row each, as the code,
and what is missing is filled up like any subset that is too small. k-means is spherical. At another
budget k, R is a third of it and at most 5 % of the pool, as at the published 15 %. R and its
training have a seed of their own, so that runs share them. Rounds of 5 % do not build on each other
in the code: round r is the budget |R| + 5 % (r - 1) computed anew, as any budget is here.

Rows: text-only examples are left out (``drop``, the published pool has none), or get their
proportional share at random (``quota``). Rows without an answer are never selected.

Cost: one pass of the vision tower over the distinct pictures; the finetuning on R; two passes of
the reference model over R.

Published, 15 % on LLaVA-1.5-7B: "comparable" to all of LLaVA-665K; Rel. 97.7 there and 100.6 on
Vision-Flan in VisNec's table (random 94.2 and 96.7).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from baselines.ifd import ratio
from baselines.pictures import first_of_picture, sources_of
from baselines.quotas import apportion, proportional_to_room, rounded_down
from baselines.ranking import check_choice, check_positive, shares
from baselines.typicality import nearest_cosines
from coincide.data.columns import answered, pictured, sources
from coincide.features.signals.picture_embedding import PictureEmbedding
from coincide.features.signals.token_scores import COLUMNS, TokenScores
from coincide.features.signals.token_scores_unasked import TokenScoresUnasked
from coincide.ops.arrays import row_digests
from coincide.ops.clusters import members_of
from coincide.ops.kmeans import spherical_kmeans
from coincide.schema import Need, Pool, Selection, SubsetOf, TunedSignal

RowsPerImage = Literal["all", "one"]


@dataclass(frozen=True)
class Reference:
    """PreSel's reference set: random pictures of every source in proportion, with their rows."""

    unique_images: bool = True
    rows_per_image: RowsPerImage = "all"
    name: str = "presel_reference"
    uses_seed: ClassVar[bool] = True
    fixed_size: ClassVar[bool] = False

    def needs(self) -> Sequence[Need]:
        """No signals."""
        return ()

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """``k`` rows; the last picture of a source gives what is left of the source's share."""
        rows, first = candidate_rows(pool, self.unique_images, self.rows_per_image)
        names, source = sources_of(pool.examples, rows)
        sizes = np.bincount(source, minlength=len(names))
        counts = apportion(sizes, sizes, k)
        turn = np.random.default_rng(seed).permutation(len(pool.examples))[first]
        order = np.lexsort((rows, turn, source))
        place = np.arange(len(rows)) - np.searchsorted(source[order], source[order])
        return Selection(rows[order[place < counts[source[order]]]])


def candidate_rows(
    pool: Pool, unique: bool, rows_per_image: RowsPerImage
) -> tuple[np.ndarray, np.ndarray]:
    """The rows with picture and answer that may be chosen, and for each the first row of its
    picture.
    """
    able = pictured(pool.examples) & answered(pool.examples)
    rows = np.flatnonzero(pool.usable & able)
    first = first_of_picture(pool.examples, rows, unique=unique)
    kept = (first == rows) | (rows_per_image == "all")
    return rows[kept], first[kept]


def weights_of(values: np.ndarray) -> np.ndarray:
    """softmax(-v √T) of the task values v [T]; NaN counts as the mean of the others."""
    known = values[~np.isnan(values)]
    filled = np.where(np.isnan(values), known.mean() if len(known) else 0.0, values)
    logits = -filled * np.sqrt(len(filled))
    weight = np.exp(logits - logits.max())
    return weight / weight.sum()


@dataclass(frozen=True)
class PreSel:
    """Takes typical pictures of every cluster, more from tasks whose questions matter."""

    unique_images: bool = True
    rows_per_image: RowsPerImage = "all"
    share: float = 0.01
    neighbors: int = 5
    iterations: int = 50
    cluster_seed: int = 12345
    reference_seed: int = 1234
    text_only: Literal["drop", "quota"] = "drop"
    quotas: Literal["released"] | None = None
    name: str = "presel"
    fixed_size: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice(self.name, "rows_per_image", self.rows_per_image, ("all", "one"))
        check_choice(self.name, "text_only", self.text_only, ("drop", "quota"))
        check_choice(self.name, "quotas", self.quotas, (None, "released"))
        check_positive(
            self.name, share=self.share, neighbors=self.neighbors, iterations=self.iterations
        )

    @property
    def uses_seed(self) -> bool:
        """Whether the run's seed matters: only for the quota of text-only rows.

        Reference set and k-means have seeds of their own.
        """
        return self.text_only == "quota"

    def key_config(self) -> dict[str, Any]:
        """All fields; ``quotas`` only where it is set: keys from before it stay valid."""
        fields = asdict(self)
        return fields if self.quotas else {k: fields[k] for k in fields if k != "quotas"}

    def needs(self) -> Sequence[Need]:
        """Embeddings of the pictures, the reference set, and two losses after training on it."""
        return PictureEmbedding(), self._reference(), *self._losses()

    def score_config(self, seed: int) -> dict[str, Any]:
        """How pictures are clustered and compared."""
        names = ("unique_images", "rows_per_image", "share", "neighbors", "iterations")
        return {**{name: getattr(self, name) for name in names}, "cluster_seed": self.cluster_seed}

    def score(self, pool: Pool, seed: int) -> dict[str, np.ndarray]:
        """``score``: typicality float32 [N] (NaN: picture in the reference set, or no candidate).

        Also cluster and first row of the picture of all candidates, int64 [N] (else -1).
        """
        rows, first = candidate_rows(pool, self.unique_images, self.rows_per_image)
        cluster = np.full(len(pool.examples), -1, np.int64)
        firsts = np.full(len(pool.examples), -1, np.int64)
        cluster[rows], firsts[rows] = self._clusters(pool, rows, first), first
        taken = firsts[pool.subset(self._reference())]
        free = rows[~np.isin(first, taken)]
        typical = np.full(len(pool.examples), np.nan, np.float32)
        typical[free] = self._typicality(pool, firsts[free], cluster[free])
        return {"score": typical, "cluster": cluster, "first": firsts}

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """The reference set, the typical pictures of every task, and the share of text-only
        rows.
        """
        rows, _ = candidate_rows(pool, self.unique_images, self.rows_per_image)
        mine = np.zeros(len(pool.examples), bool)
        mine[rows] = True
        share = shares(pool, mine, k, self.text_only, seed)
        reference = pool.subset(self._reference())[: share.k]
        scored = pool.scored(self, seed)
        free = np.flatnonzero(~np.isnan(scored["score"]))
        names, source = sources_of(pool.examples, rows)
        room = np.bincount(source[np.isin(rows, free)], minlength=len(names))
        values = self._values(pool, names)
        weights = weights_of(values)
        left = share.k - len(reference)
        if self.quotas == "released":
            quotas = np.minimum(rounded_down(weights, left), room)
        else:
            quotas = apportion(weights, room, left)
        inside = proportional_to_room if self.quotas == "released" else _in_proportion
        chosen = _chosen(scored, free, source[np.isin(rows, free)], quotas, inside)
        columns = {"value": values, "weight": weights, "free": room, "quota": quotas}
        table = {"source": names, **{name: column.tolist() for name, column in columns.items()}}
        return Selection(
            rows=np.concatenate([reference, chosen, share.text]),
            scores=scored["score"],
            facts={"reference": len(reference), "text_only": self.text_only, **share.facts()},
            tables={"sources": table},
        )

    def _clusters(self, pool: Pool, rows: np.ndarray, first: np.ndarray) -> np.ndarray:
        """The cluster of each row; clusters are made within sources and numbered consecutively."""
        names, source = sources_of(pool.examples, rows)
        found = np.empty(len(rows), np.int64)
        begun = 0
        for number in range(len(names)):
            here = np.flatnonzero(source == number)
            pictures, which = np.unique(first[here], return_inverse=True)
            x = np.asarray(pool.signal(PictureEmbedding())[pictures])
            distinct = len(np.unique(row_digests(x)))
            clusters = min(distinct, max(1, int(self.share * len(pictures))))
            _, assigned = spherical_kmeans(
                x, clusters, self.iterations, self.cluster_seed, device=_device()
            )
            found[here] = begun + assigned[which]
            begun += clusters
        return found

    def _typicality(self, pool: Pool, first: np.ndarray, cluster: np.ndarray) -> np.ndarray:
        """For each row, of its picture: the mean cosine to the nearest pictures; 0 for a single
        one.
        """
        pictures, place, which = np.unique(first, return_index=True, return_inverse=True)
        members = members_of(cluster[place], int(cluster.max(initial=-1)) + 1)
        x = np.asarray(pool.signal(PictureEmbedding())[pictures])
        found = np.zeros(len(pictures))
        nearest = nearest_cosines(x, members, self.neighbors)
        for places, cosines in zip(members, nearest, strict=True):
            if cosines.size:
                found[places] = cosines.mean(axis=1)
        return found[which]

    def _values(self, pool: Pool, names: Sequence[str]) -> np.ndarray:
        """v of each source, float64; NaN if the reference set has no row of it."""
        asked, unasked = (pool.tuned(need) for need in self._losses())
        found = ratio(asked[:, COLUMNS.index("nll")], unasked[:, 0])
        rows = np.flatnonzero(~np.isnan(found))
        of: Mapping[str, list[float]] = {name: [] for name in names}
        labels = sources(pool.examples)
        for code, value in zip(labels.codes[rows].tolist(), found[rows].tolist(), strict=True):
            of[labels.names[code]].append(value)
        return np.array([np.mean(of[name]) if of[name] else np.nan for name in names])

    def _reference(self) -> SubsetOf:
        how = Reference(self.unique_images, self.rows_per_image)
        return SubsetOf(how, share=1 / 3, at_most=0.05, seed=self.reference_seed)

    def _losses(self) -> tuple[TunedSignal, TunedSignal]:
        reference = self._reference()
        return TunedSignal(reference, TokenScores()), TunedSignal(reference, TokenScoresUnasked())


def _in_proportion(sizes: np.ndarray, room: np.ndarray, total: int) -> np.ndarray:
    return apportion(room, room, total)


def _chosen(
    scored: Mapping[str, np.ndarray],
    free: np.ndarray,
    source: np.ndarray,
    quotas: np.ndarray,
    inside: Callable[[np.ndarray, np.ndarray, int], np.ndarray],
) -> np.ndarray:
    """``quotas[t]`` of the ``free`` rows of each source, int64.

    Each cluster gives what ``inside`` makes of its size, its free rows and the source's quota, the
    most typical pictures first, and a picture's rows together.
    """
    whole = np.bincount(scored["cluster"][scored["cluster"] >= 0])
    cluster = scored["cluster"][free]
    counts = np.zeros(int(cluster.max(initial=-1)) + 1, np.int64)
    for number, quota in enumerate(quotas.tolist()):
        mine, sizes = np.unique(cluster[source == number], return_counts=True)
        counts[mine] = inside(whole[mine], sizes, quota)
    order = np.lexsort((free, scored["first"][free], -scored["score"][free], cluster))
    place = np.arange(len(free)) - np.searchsorted(cluster[order], cluster[order])
    return free[order[place < counts[cluster[order]]]]


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
