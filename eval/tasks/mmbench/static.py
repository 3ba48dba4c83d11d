"""MMBench's static score, which lmms-eval only has for the English dev split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator


def accuracy(results: Sequence[Mapping[str, Any]]) -> float:
    """Percentage of questions all of whose rotations are answered right."""
    return float(MMBench_Evaluator().eval_result(results, eval_method="static")[0]) * 100
