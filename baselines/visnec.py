"""VisNec: what cannot be answered without the picture, evenly over kinds of question.

Score, with the mean negative log-likelihood of the answer tokens in nats, all turns:

    s_i = l_i(text alone) - l_i(image and text)

above 0: the image helps; near 0: it is redundant; below 0: image and answer disagree. The rows are
clustered by their question, each cluster gives its proportional share, and in it the largest s go
first, ties by row index.

From: VisNec (arXiv 2603.01195, ECCV 2026), implemented from a specification of its released code.
Its model is Vicuna-7B with LLaVA's projector before any instruction tuning (``target=llava_1_5_7b``
here, taken as reference); 20 clusters.

Ours differs: shares by largest remainder, so that the budget is met, where the released code rounds
each cluster's down and keeps one at least; the image's tokens are removed, so that positions close
up, where it leaves one masked token (``image: masked``, for LLaVA's templates). Questions are
clustered by CLIP's text embedding of all the human says, so that no further model runs; with
``questions: sentence`` by MiniLM's of the first turn, as released (``sentence=minilm``). Both by
spherical k-means, where it takes mini-batches. Rows without a question are a cluster of
their own. The project's page wants rows that disagree filtered out and the code does not:
``minimum: 0`` takes them only once no others are left; how many were chosen is in the manifest.

Rows: text-only examples score 0, as if redundant: they get their share at random (``quota``),
compete as released (``keep``) or are left out (``drop``). Rows without an answer are never
selected.

Cost: 1.2 passes of the model, the second without images; a pass of CLIP or of the text encoder over
the questions.

Published: Rel. 100.2 at 15 % of LLaVA-665K on LLaVA-1.5-7B, where random has 94.2 and COINCIDE
95.8; 115.8 at 15 % of Vision-Flan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from baselines.quotas import apportion
from baselines.ranking import TextOnly, check_choice, check_positive, shares
from coincide.features.signals.clip_text import ClipText
from coincide.features.signals.sentence_embedding import SentenceEmbedding
from coincide.features.signals.token_scores import COLUMNS, TokenScores
from coincide.features.signals.token_scores_blind import TokenScoresBlind
from coincide.features.signals.token_scores_masked import TokenScoresMasked
from coincide.schema import Clustering, Need, Pool, Selection

POLICIES = ("quota", "keep", "drop")
NLL = COLUMNS.index("nll")


def necessity(blind: np.ndarray, seeing: np.ndarray) -> np.ndarray:
    """Nats that the image saves, float32 [N], of losses [N] without and with it."""
    return (np.asarray(blind, np.float64) - np.asarray(seeing, np.float64)).astype(np.float32)


def best_of_each_cluster(
    score: np.ndarray, cluster: np.ndarray, k: int, minimum: float | None = None
) -> np.ndarray:
    """Places of ``k`` of n rows, int64, highest ``score`` [n] first: of each cluster (int [n], from
    0) the best of its proportional share.

    Of rows below ``minimum`` none is taken while others are left; what a cluster cannot give then
    goes to the best of all. Ties go to the lowest place.
    """
    if not k:
        return np.empty(0, np.int64)
    sizes = np.bincount(cluster)
    quota = apportion(sizes, sizes, k)
    able = np.ones(len(score), bool) if minimum is None else score >= minimum
    places = np.arange(len(score))
    best_first = np.lexsort((places, -score, ~able, cluster))
    turn = places - np.searchsorted(cluster[best_first], cluster[best_first])
    inside = best_first[(turn < quota[cluster[best_first]]) & able[best_first]]
    others = np.setdiff1d(places, inside)
    others = others[np.lexsort((others, -score[others], ~able[others]))]
    chosen = np.concatenate([inside, others[: k - len(inside)]])
    return chosen[np.lexsort((chosen, -score[chosen]))]


@dataclass(frozen=True)
class VisNec:
    """Largest gain by the image, evenly over clusters of questions."""

    clusters: int = 20
    iterations: int = 50
    cluster_seed: int = 42
    image: Literal["removed", "masked"] = "removed"
    minimum: float | None = None
    text_only: TextOnly = "quota"
    questions: Literal["sentence"] | None = None
    name: str = "visnec"
    fixed_size: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice(self.name, "image", self.image, ("removed", "masked"))
        check_choice(self.name, "text_only", self.text_only, POLICIES)
        check_choice(self.name, "questions", self.questions, (None, "sentence"))
        check_positive(self.name, clusters=self.clusters, iterations=self.iterations)

    @property
    def uses_seed(self) -> bool:
        """Only the quota of text-only rows is drawn."""
        return self.text_only == "quota"

    def key_config(self) -> dict[str, Any]:
        """All fields; ``questions`` only where it is set: keys from before it stay valid."""
        fields = asdict(self)
        return fields if self.questions else {k: fields[k] for k in fields if k != "questions"}

    def needs(self) -> Sequence[Need]:
        """The answers' scores with and without the image, and the clusters of the questions."""
        return TokenScores(), self._blind(), self._asked(), self._clustering()

    def score_config(self, seed: int) -> dict[str, Any]:
        """The signals say it all."""
        return {}

    def score(self, pool: Pool, seed: int) -> dict[str, np.ndarray]:
        """Nats that the image saves, float32 [N]."""
        blind, seeing = pool.signal(self._blind())[:], pool.signal(TokenScores())[:]
        return {"score": necessity(blind[:, 0], seeing[:, NLL])}

    def select(self, pool: Pool, k: int, seed: int) -> Selection:
        """The ``k`` rows of the clusters' shares, and the text-only share."""
        score = pool.scored(self, seed)["score"]
        share = shares(pool, ~np.isnan(score), k, self.text_only, seed)
        rows = np.flatnonzero(share.candidates)
        cluster = pool.clusters(self._clustering()).assignment[rows]
        cluster = np.where(cluster < 0, self.clusters, cluster)  # without a question
        wanted = min(share.k, len(rows))
        chosen = rows[best_of_each_cluster(score[rows], cluster, wanted, self.minimum)]
        rest = np.setdiff1d(rows, chosen)
        ranking = np.concatenate([chosen, rest[np.lexsort((rest, -score[rest]))]])
        return Selection(
            rows=np.concatenate([chosen, share.text]),
            scores=np.where(share.candidates, score, np.float32(np.nan)),
            ranking=ranking,
            facts={
                "text_only": self.text_only,
                "image": self.image,
                "chosen_below_zero": int((score[chosen] < 0).sum()),
                "pool_below_zero": int((score[rows] < 0).sum()),
                "without_a_question": int((cluster == self.clusters).sum()),
                **share.facts(),
            },
        )

    def _blind(self) -> TokenScoresBlind | TokenScoresMasked:
        return TokenScoresBlind() if self.image == "removed" else TokenScoresMasked()

    def _asked(self) -> ClipText | SentenceEmbedding:
        return SentenceEmbedding() if self.questions == "sentence" else ClipText("question")

    def _clustering(self) -> Clustering:
        return Clustering(self._asked(), self.clusters, self.iterations, self.cluster_seed)
