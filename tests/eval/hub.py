"""The made datasets of ``eval.made``, and the machine that reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from eval.made import (
    DATASETS,
    ORGANISATION,
    DatasetSplit,
    MadeDocument,
    docvqa,
    gqa,
    mirror,
    picture,
    right_answer,
    write,
)

__all__ = [
    "DATASETS", "ORGANISATION", "DatasetSplit", "MadeDocument", "docvqa", "gqa", "mirror",
    "offline", "picture", "right_answer", "task_index", "write", "wrong",
]  # fmt: skip


def wrong(benchmark: str, doc: MadeDocument) -> str:
    """A readable answer that the benchmark counts as wrong."""
    match benchmark:
        case "pope" | "mme":
            return "no" if doc["answer"].lower() == "yes" else "yes"
        case "scienceqa_img" | "ai2d" | "mmbench_en" | "mmbench_cn" | "seed" | "mmmu":
            return "A" if right_answer(benchmark, doc) != "A" else "B"
    return "zebra crossing"


@contextmanager
def offline(cache: Path) -> Iterator[None]:
    """No network for the libraries of this process, and their caches in ``cache``."""
    import datasets.config
    from lmms_eval.api.task import _resolve_hf_datasets_cache_dir as remembered

    remembered.cache_clear()  # else the first folder of the process, and what is in it, is used
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
        patch.setenv("LMMS_EVAL_DATASETS_CACHE", str(cache))
        patch.setenv("OPENAI_API_KEY", "unused")
        yield
    remembered.cache_clear()


@cache
def task_index(manager: Callable[[], Any]) -> Mapping[str, Mapping[str, Any]]:
    """lmms-eval's own tasks by name; reading them takes seconds."""
    return manager().task_index
