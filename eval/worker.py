"""``python -m eval.worker request.json``: run lmms-eval on every benchmark of the request.

Standard output carries messages for the parent (see ``eval.process``); what libraries print goes to
standard error. Exits with 1 if a benchmark failed, after the others were evaluated.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from coincide.schema import UserError
from coincide.store import note_done
from coincide.system.disk import is_full
from coincide.system.files import write_atomic, write_json
from coincide.system.processes import die_with_parent
from coincide.terminal.inert import guard_terminal
from eval.judge import JudgeClient
from eval.offline import offline
from eval.request import HOW, BenchmarkJob, EvaluationRequest

RANK = int(os.environ.get("RANK", "0"))
WORLD_SIZE = int(os.environ.get("WORLD_SIZE", "1"))

Send = Callable[..., None]
MakeModel = Callable[[EvaluationRequest, str, Callable[[int], None]], Any]
"""Request, device, and a callback for the number of new answers -> the model for lmms-eval."""


def load_llava(request: EvaluationRequest, device: str, answered: Callable[[int], None]) -> Any:
    """The model of the request, with its adapter."""
    from coincide.models.template import TEMPLATES
    from eval.model import LmmsEvalModel

    return LmmsEvalModel(
        Path(request.model),
        Path(request.adapter) if request.adapter else None,
        template=TEMPLATES[request.template],
        batch_size=request.batch_size,
        batch_tokens=request.batch_tokens,
        dtype=request.dtype,
        device=device,
        answered=answered,
    )


def main(path: Path, make_model: MakeModel = load_llava) -> int:
    """Evaluate the request in ``path``; returns the exit code."""
    if WORLD_SIZE > 1:
        die_with_parent()  # torchrun leaves its ranks behind when it is killed
        if os.getppid() == 1:
            return 1  # it was killed before that line
    send = _channel()
    request = EvaluationRequest.read(path)
    offline(Path(request.cache))
    try:
        return _evaluate_all(request, path.parent, send, make_model)
    except Exception as error:
        traceback.print_exc()
        send("failed", benchmark="preparation", why=_why(error), full=is_full(error))
        return 1


def _evaluate_all(request: EvaluationRequest, run: Path, send: Send, make_model: MakeModel) -> int:
    """Load every task before the model, so that missing data costs no GPU time; then evaluate."""
    import torch

    from eval.replied import JudgeReplies

    if request.threads:
        torch.set_num_threads(request.threads)
    device = _join_ranks(request.device)
    judge = _judge(request)
    manager, tasks, unloaded = _load(request, run)
    jobs, failed = [], 0
    for job in request.jobs:
        try:
            if job.name in unloaded:
                raise unloaded[job.name]
            prepare(
                tasks[job.name], job, replace(judge, memory=JudgeReplies(Path(job.output), RANK))
            )
        except Exception as error:  # the same on every rank
            traceback.print_exc()
            send("failed", benchmark=job.name, why=_why(error))
            failed += 1
        else:
            jobs.append(job)
    if request.examine or not jobs:
        return _examine_all(jobs, tasks, send) or int(failed > 0)
    asked = sum(len(tasks[job.name].eval_docs) for job in jobs)
    send("loaded", samples=-(-asked // WORLD_SIZE))
    model = _model(request, jobs, tasks, device, lambda n: send("answered", count=n), make_model)
    for job in jobs:
        how = partial(_how, model, request, device, time.monotonic(), model.reused)
        try:
            facts = evaluate(model, job, tasks[job.name], manager, how)
        except Exception as error:
            traceback.print_exc()
            send("failed", benchmark=job.name, why=_why(error), full=is_full(error))
            failed += 1
            if WORLD_SIZE > 1:
                break  # the other ranks wait for this one, which now ends and takes them along
        else:
            send("done", benchmark=job.name, **facts)
    return 1 if failed else 0


def _how(
    model: Any, request: EvaluationRequest, device: str, started: float, before: int
) -> dict[str, Any]:
    """How a benchmark's answers were computed, since ``started`` and ``before`` reused answers."""
    return {
        "evaluate_seconds": round(time.monotonic() - started, 3),
        "device": device, "batch_size": request.batch_size, "world_size": WORLD_SIZE,
        **({"reused": model.reused - before} if model.reused > before else {}),
        **model.how(),
    }  # fmt: skip


def _examine_all(jobs: Sequence[BenchmarkJob], tasks: Mapping[str, Any], send: Send) -> int:
    """Try each task's documents without the model; returns the exit code."""
    from eval.examine import examine

    failed = 0
    for job in jobs:
        try:
            examine(tasks[job.name], job)
        except Exception as error:
            traceback.print_exc()
            send("failed", benchmark=job.name, why=_why(error))
            failed += 1
        else:
            send("done", benchmark=job.name)
    return 1 if failed else 0


def _model(
    request: EvaluationRequest,
    jobs: Sequence[BenchmarkJob],
    tasks: Mapping[str, Any],
    device: str,
    answered: Callable[[int], None],
    make_model: MakeModel,
) -> Any:
    """The model, behind the answers that it gave before."""
    from eval.kept import ReplayModel
    from eval.questions import Questions, candidates_of

    shares = request.batch_tokens is not None
    mixed = request.dtype == "float32"
    return ReplayModel(
        jobs, lambda: make_model(request, device, answered),
        questions=Questions(jobs, tasks, mixed=mixed) if shares else None,
        number=RANK, ranks=WORLD_SIZE,
        candidates=candidates_of(jobs, tasks) if request.likelihood else None,
        batch_size=request.batch_size, device=device, answered=answered,
    )  # fmt: skip


def prepare(task: Any, job: BenchmarkJob, judge: JudgeClient) -> None:
    """Make a loaded task's scores depend on each sample alone, and use our judge in it."""
    from eval.judged import attach
    from eval.scores import check_metrics

    check_metrics(list(task.aggregation()), [each.name for each in task._filters], job)
    if job.judged:
        attach(task, job.task, judge)
    if callable(task.config.process_results):
        task.config.process_results = with_own_seed(task.config.process_results)


def with_own_seed(process: Callable[..., Any]) -> Callable[..., Any]:
    """``process`` with random guesses that depend only on the sample.

    MMMU guesses a letter if it can read none. Drawn from the global generator, its score would
    depend on the order of the samples and so on the number of processes.
    """

    def call(doc: Any, results: Any, **more: Any) -> Any:
        written = {k: v for k, v in doc.items() if isinstance(v, (str, int, float))}
        random.seed(json.dumps([written, results], sort_keys=True))
        return process(doc, results, **more)

    return call


def evaluate(
    model: Any, job: BenchmarkJob, task: Any, manager: Any, how: Callable[[], dict[str, Any]] = dict
) -> dict[str, Any]:
    """Run one benchmark and write ``samples.jsonl`` and then ``result.json``, each atomically.

    With several ranks the first one writes, once all have answered. Returns ``how()``, called when
    all is answered; it is kept beside the results, for a run that finds them after a kill.
    """
    from lmms_eval.evaluator import simple_evaluate

    from eval import order
    from eval.journal import discard
    from eval.journal import read as read_answers
    from eval.judged import failure
    from eval.kept import journal_fields
    from eval.likelihood import likelihood_scores
    from eval.loading import answered_protocol, stated_protocol
    from eval.questions import candidates_of
    from eval.replied import merge_replies
    from eval.scores import by_filter, lenient_scores, read, readable, records, scores
    from eval.units import attach, summary

    job = replace(job, protocol=stated_protocol(task, job))
    with TemporaryDirectory() as scratch:
        outcome = simple_evaluate(
            model=model,
            tasks=[task],
            task_manager=manager,
            batch_size=model.batch_size,
            bootstrap_iters=0,
            log_samples=True,
            process_docs_parallel=1,
            distributed_executor_backend="torchrun",
            cli_args=Namespace(output_path=scratch, process_with_media=True),
        )
        facts = how()
        if RANK > 0:
            return facts
        job = replace(
            job, protocol=answered_protocol(job.protocol, getattr(model, "engine", "prefix"))
        )
        filters = [filtered.name for filtered in task._filters]
        samples = by_filter(outcome["samples"][job.name], filters)
        attach(samples, task, job)
        order.attach(samples, task)
        reads = read(samples, job, reply_scorer(task, job))
        first, answers = next(iter(samples.values())), read_answers(Path(job.output))
        give = partial(candidates_of([job], {job.name: task}), job.name)
        rows = [
            {**row, **journal_fields(row["doc_id"], answers, give)}
            for row in records(samples, job, reads)
        ]
        result = {
            "scores": scores(samples, task.aggregation(), job, scratch, reads),
            "lenient": lenient_scores(samples, job, reads),
            "likelihood": likelihood_scores(rows, job),
            "readable": readable(reads),
            "n": len(first),
            **summary(rows, job),
            **order.summary(rows),
            "judge_failed": sum(failure(sample) is not None for sample in first),
            "primary": job.primary,
            "task": job.task,
            "task_version": outcome["versions"][job.name],
            "lmms_eval": version("lmms_eval"),
        }
    output = Path(job.output)
    merge_replies(output)
    write_json(output / HOW, facts)
    _write_lines(output / "samples.jsonl", rows)
    note_done(output / "samples.jsonl")
    discard(output)
    write_json(output / "result.json", result)
    note_done(output / "result.json")
    return facts


def reply_scorer(task: Any, job: BenchmarkJob) -> Callable[[int, str], float | None]:
    """A function: document index and reply -> the task's own mark in the primary metric."""
    from eval.rules import RULES
    from eval.scores import split_key

    documents, metric = task.eval_docs_no_media, split_key(job.metrics[job.primary])[0]

    def mark(doc_id: int, reply: str) -> float | None:
        return RULES[job.task].own(task.process_results(documents[doc_id], [reply]).get(metric))

    return mark


def _join_ranks(device: str) -> str:
    """Join the other ranks, if there are any; returns the device of this one."""
    import torch

    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if WORLD_SIZE == 1:
        return "cuda" if cuda else "cpu" if device == "auto" else device
    if cuda:
        torch.cuda.set_device(RANK)
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    torch.distributed.init_process_group(backend, timeout=timedelta(days=1))
    return f"cuda:{RANK}" if cuda else "cpu"


def _load(request: EvaluationRequest, run: Path) -> Any:
    """Load the tasks, and say which do not load; the first rank before the others, which then find
    everything in the caches.
    """
    import torch

    from eval.loading import load_each

    folder = run / f"tasks{RANK}"
    if RANK > 0:
        torch.distributed.barrier()
    loaded = load_each(request.jobs, folder)
    if RANK == 0 and WORLD_SIZE > 1:
        torch.distributed.barrier()
    return loaded


def _judge(request: EvaluationRequest) -> JudgeClient:
    """The judge's client. Made before the tasks are loaded: MM-Vet's requires an address and a
    key.
    """
    key = os.environ.get(request.judge.key_env or "", "")
    os.environ["OPENAI_API_URL"] = request.judge.url or "http://nowhere.invalid"
    os.environ["OPENAI_API_KEY"] = "unused"
    os.environ["MODEL_VERSION"] = request.judge.model or "none"
    return JudgeClient(request.judge, key)


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as handle:
            for row in rows:
                handle.write(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n")

    write_atomic(path, write)


def _channel() -> Send:
    """A function that sends a message to the parent.

    From now on all other output goes to stderr.
    """
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(event: str, **content: Any) -> None:
        if RANK > 0 and event != "failed":
            return  # the first rank speaks for all
        pipe.write(json.dumps({"event": event, **content}) + "\n")
        pipe.flush()

    return send


def _why(error: BaseException) -> str:
    from eval.documents import root_error

    cause = root_error(error)
    return str(cause) if isinstance(cause, UserError) else f"{type(cause).__name__}: {cause}"


if __name__ == "__main__":
    guard_terminal()
    sys.exit(main(Path(sys.argv[1])))
