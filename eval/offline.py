"""An evaluation's process without a network, with the caches of libraries in the store."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

from coincide.system import forkserver
from coincide.system.processes import has_locks


def offline(cache: Path) -> None:
    """No network, and caches in the store.

    Where its files cannot be locked, which ``datasets`` does for every table, the tables are
    prepared in a temporary folder instead. Called before the libraries are imported, which read it
    once.
    """
    tables = cache / "datasets"
    if not has_locks(tables):
        tables = Path(tempfile.mkdtemp(prefix="coincide-datasets-"))
        atexit.register(shutil.rmtree, tables, ignore_errors=True)
        if os.environ.get("RANK", "0") == "0":
            told = f"evaluate: no file locks in {cache}; datasets are prepared in {tables}"
            print(told, file=sys.stderr, flush=True)
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HOME": str(cache / "huggingface"),
        "HF_DATASETS_CACHE": str(tables),
        "LMMS_EVAL_DATASETS_CACHE": str(tables),
        "TOKENIZERS_PARALLELISM": "false",
        "NUM_IMAGE": "1",  # of 2, MMBench and MMMU would show every picture twice
    }
    if forkserver.forked:
        _tell_loaded(cache / "huggingface", tables)


def _tell_loaded(home: Path, tables: Path) -> None:
    """The same for libraries that this process was forked with (``coincide.system.forkserver``)."""
    import datasets.config
    import huggingface_hub.constants
    from lmms_eval.api.task import _resolve_hf_datasets_cache_dir as remembered
    from PIL import ImageFile

    huggingface_hub.constants.HF_HUB_OFFLINE = True
    datasets.config.HF_HUB_OFFLINE = datasets.config.HF_DATASETS_OFFLINE = True
    datasets.config.HF_CACHE_HOME = str(home)
    datasets.config.HF_DATASETS_CACHE = tables
    datasets.config.HF_MODULES_CACHE = home / "modules"
    datasets.config.DOWNLOADED_DATASETS_PATH = tables / "downloads"
    datasets.config.EXTRACTED_DATASETS_PATH = tables / "downloads" / "extracted"
    remembered.cache_clear()
    ImageFile.LOAD_TRUNCATED_IMAGES = True  # as importing lmms-eval leaves it
