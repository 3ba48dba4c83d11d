"""``python -m eval.worker request.json``: run lmms-eval on every benchmark of the request.

Standard output carries messages for the parent (see ``eval.process``); what libraries print goes
to standard error. Exits with 1 when a benchmark failed, after the others had their turn.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from coincide.schema import UserError
from coincide.store import write_atomic, write_json
from eval.request import Job, Request

Send = Callable[..., None]


def main(path: Path) -> int:
    """Evaluate; the exit code."""
    send = _channel()
    request = Request.read(path)
    _offline(Path(request.cache))
    try:
        return _evaluate_all(request, path.parent, send)
    except Exception as error:
        traceback.print_exc()
        send("failed", benchmark="preparation", why=_why(error))
        return 1


def _evaluate_all(request: Request, run: Path, send: Send) -> int:
    """Load every task before the model, so that missing data costs no GPU time; then run them."""
    import torch

    from coincide.models.template import TEMPLATES
    from eval.loading import load_tasks
    from eval.model import Llava

    if request.threads:
        torch.set_num_threads(request.threads)
    manager, tasks = load_tasks(request.jobs, run / "tasks")
    send("loaded", samples=sum(_size(tasks[job.name], job) for job in request.jobs))
    model = Llava(
        Path(request.model),
        Path(request.adapter) if request.adapter else None,
        template=TEMPLATES[request.template],
        batch_size=request.batch_size,
        dtype=request.dtype,
        device=request.device,
        answered=lambda count: send("answered", count=count),
    )
    failed = 0
    for job in request.jobs:
        started = time.monotonic()
        try:
            evaluate(model, job, tasks[job.name], manager)
        except Exception as error:
            traceback.print_exc()
            send("failed", benchmark=job.name, why=_why(error))
            failed += 1
        else:
            seconds = round(time.monotonic() - started, 3)
            how = {"device": str(model.device), "batch_size": model.batch_size}
            send("done", benchmark=job.name, evaluate_seconds=seconds, **how)
    return 1 if failed else 0


def evaluate(model: Any, job: Job, task: Any, manager: Any) -> None:
    """Run one benchmark and write ``samples.jsonl`` and then ``result.json``, each atomically."""
    from lmms_eval.evaluator import simple_evaluate

    from eval.scores import records, scores, task_samples

    outcome = simple_evaluate(
        model=model,
        tasks=[task],
        task_manager=manager,
        limit=job.limit,
        batch_size=model.batch_size,
        bootstrap_iters=0,
        log_samples=True,
        process_docs_parallel=1,
        distributed_executor_backend="torchrun",
    )
    samples = task_samples(outcome, job, [filtered.name for filtered in task._filters])
    result = {
        "scores": scores(outcome, samples, job),
        "n": len(samples),
        "primary": job.primary,
        "task": job.task,
        "task_version": outcome["versions"][job.name],
        "lmms_eval": version("lmms_eval"),
    }
    output = Path(job.output)
    _write_lines(output / "samples.jsonl", records(samples, job))
    write_json(output / "result.json", result)


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as handle:
            for row in rows:
                handle.write(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n")

    write_atomic(path, write)


def _size(task: Any, job: Job) -> int:
    documents = len(task.eval_docs)
    return documents if job.limit is None else min(job.limit, documents)


def _channel() -> Send:
    """A function that sends a message to the parent; everybody's prints now go to stderr."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(event: str, **content: Any) -> None:
        pipe.write(json.dumps({"event": event, **content}) + "\n")
        pipe.flush()

    return send


def _offline(cache: Path) -> None:
    """No network, and caches in the store. Before the libraries are imported: they read it once."""
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HOME": str(cache / "huggingface"),
        "HF_DATASETS_CACHE": str(cache / "datasets"),
        "LMMS_EVAL_DATASETS_CACHE": str(cache / "datasets"),
        "TOKENIZERS_PARALLELISM": "false",
    }


def _why(error: BaseException) -> str:
    from eval.loading import unwrapped

    cause = unwrapped(error)
    return str(cause) if isinstance(cause, UserError) else f"{type(cause).__name__}: {cause}"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
