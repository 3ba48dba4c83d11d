"""A base with the adapters of a warm-up over the examples of a shard, forward alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coincide.config import FeaturePass
from coincide.features.engine.ahead import decoding
from coincide.features.engine.contract import Computer, WorkerSite
from coincide.features.forward.adapted import AdaptedModel
from coincide.features.forward.encoder import RowEncoder, variants_of
from coincide.features.forward.rows import Forward
from coincide.features.forward.walk import compute_rows
from coincide.models.load import load_model, load_processor
from coincide.schema import Example, ModelSource


@contextmanager
def adapted_computer(
    model: ModelSource,
    base: Path,
    dtype: str,
    options: FeaturePass,
    signals: Sequence[Any],
    site: WorkerSite,
    *,
    drop_refused: bool = False,
) -> Iterator[Computer]:
    """Load the ``base`` in ``dtype`` with the adapters in ``site.model``; yields what computes a
    shard, adapter by adapter. ``signals``: forward signals that say the number of their adapter,
    ``at``.
    """
    wanted, processor = variants_of(signals), load_processor(base)
    encoder = RowEncoder(
        site.dataset, processor, model.template, model.max_length, drop_refused, wanted
    )
    with decoding(encoder, site.decoders) as ordered:
        network = load_model(base, dtype=getattr(torch, dtype), device=site.device)
        adapted = AdaptedModel(network, sorted(site.model.glob("at-*")))
        pad = processor.tokenizer.pad_token_id
        runs = {
            number: Forward(
                network, [s for s in signals if s.at == number], pad, site.device, options
            )
            for number in sorted({signal.at for signal in signals})
        }

        def compute(
            examples: Sequence[Example], progress: Callable[[int], None]
        ) -> tuple[list[np.ndarray], np.ndarray]:
            found: dict[Any, np.ndarray] = {}
            valid = np.ones(len(examples), dtype=bool)
            for number, run in runs.items():
                adapted.use(number)
                last = number == max(runs)
                with adapted.beside():
                    values, valid = compute_rows(
                        examples, progress if last else lambda rows: None, ordered, run
                    )
                found |= dict(zip(run.signals, values, strict=True))
            return [found[signal] for signal in signals], valid

        with torch.inference_mode():
            yield compute
