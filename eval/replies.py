"""``python -m eval.replies``: which forms of a right reply count, in every benchmark.

Runs lmms-eval's own tasks (4 s to index) on synthetic documents with the hub's schemas, with the
right answer to each in seven forms, and prints the score of the strict and of the lenient reading.
Judged benchmarks are left out, since the judge decides what counts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from coincide.ledger.result import Score
from coincide.schema import UserError
from coincide.terminal.inert import guard_terminal
from eval.request import BenchmarkJob

LoggedSample = Mapping[str, Any]

CONF = Path(__file__).resolve().parents[1] / "conf" / "benchmark"
FORMS: Mapping[str, Callable[[str, str, str], str]] = {
    "bare": lambda short, text, sentence: short,
    "x.": lambda short, text, sentence: f"{short}.",
    "lower": lambda short, text, sentence: short.lower(),
    "(X)": lambda short, text, sentence: f"({short})" if text else short,
    "X. text": lambda short, text, sentence: f"{short}. {text}" if text else short,
    "text": lambda short, text, sentence: text or short,
    "sentence": lambda short, text, sentence: sentence,
}
"""Form -> function that gives the right reply in this form, from the answer, the text of its option
("": none) and a sentence."""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; exit status 2 for an unknown benchmark."""
    parser = argparse.ArgumentParser(prog="python -m eval.replies", description=__doc__)
    parser.add_argument("benchmarks", nargs="*", metavar="BENCHMARK", help="all when empty")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    given = parser.parse_args(words)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            found = table(given.benchmarks)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(found, indent=1) if given.json else text(found))
    return 0


ReplyTable = dict[str, dict[str, dict[str, float | None]]]
"""Benchmark -> ``strict``, ``lenient`` or ``read`` -> form -> score, or share of replies read."""


def table(names: Sequence[str] = ()) -> ReplyTable:
    """Run the benchmarks ``names`` (all if empty). Raises UserError for an unknown one."""
    known = benchmarks()
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"No benchmark {', '.join(unknown)}; there are {', '.join(known)}.")
    with TemporaryDirectory() as folder, _in_mirror(Path(folder)):
        from eval.judge import Judge, JudgeClient
        from eval.loading import load_tasks
        from eval.worker import prepare

        jobs = {n: _job(b, Path(folder)) for n, b in known.items() if n in names or not names}
        _, tasks = load_tasks(list(jobs.values()), Path(folder) / "tasks")
        for name, task in tasks.items():
            prepare(task, jobs[name], JudgeClient(Judge(), ""))
        return {name: forms(jobs[name], tasks[name]) for name in jobs}


def benchmarks() -> dict[str, Any]:
    """Name -> benchmark, all of ``conf/benchmark`` but the demo's and the judged ones."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    paths = [path for path in sorted(CONF.glob("*.yaml")) if not path.stem.startswith("demo_")]
    found = {path.stem: instantiate(OmegaConf.load(path), _convert_="all") for path in paths}
    return {name: benchmark for name, benchmark in found.items() if not benchmark.judge}


def forms(job: BenchmarkJob, task: Any) -> dict[str, dict[str, float | None]]:
    """The primary score of right replies in each form, and the share of them that could be read."""
    from eval.made import option_text, right_answer, sentence

    found: dict[str, dict[str, float | None]] = {"strict": {}, "lenient": {}, "read": {}}
    for form, made in FORMS.items():
        said = [
            made(right_answer(job.name, doc), option_text(job.name, doc), sentence(job.name, doc))
            for doc in task.eval_docs_no_media
        ]
        strict, lenient = score(job, task, said)
        found["strict"][form], found["read"][form] = strict.value, strict.readable
        found["lenient"][form] = lenient.value
    return found


def score(job: BenchmarkJob, task: Any, replies: Sequence[str]) -> tuple[Score, Score]:
    """The primary score of ``replies``, one per document, by the strict and by the lenient
    reading.
    """
    from eval.scores import lenient_scores, read, scores
    from eval.worker import reply_scorer

    samples = logged_samples(task, replies)
    reads = read(samples, job, reply_scorer(task, job))
    with TemporaryDirectory() as scratch:
        strict = scores(samples, task.aggregation(), job, scratch, reads)
    both = strict, lenient_scores(samples, job, reads)
    [one, other] = [next(s for s in each if s["metric"] == job.primary) for each in both]
    return Score(**one), Score(**other)


def logged_samples(task: Any, replies: Sequence[str]) -> dict[str, list[LoggedSample]]:
    """Filter -> what lmms-eval's evaluator would log for the task with these replies."""
    documents = list(task.eval_docs_no_media)
    found: dict[str, list[LoggedSample]] = {}
    for each in task._filters:
        asked = [SimpleNamespace(resps=[r], filtered_resps={}, doc=d) for r, d in
                 zip(replies, documents, strict=True)]  # fmt: skip
        each.apply(asked, documents)
        found[each.name] = [
            {
                "doc_id": i, "doc": task.eval_docs_no_media[i], "resps": [[replies[i]]],
                "arguments": (task.doc_to_text(document),), "target": task.doc_to_target(document),
                **task.process_results(document, [one.filtered_resps[each.name]]),
            }
            for i, (one, document) in enumerate(zip(asked, documents, strict=True))
        ]  # fmt: skip
    return found


def _job(benchmark: Any, folder: Path) -> BenchmarkJob:
    return BenchmarkJob(
        benchmark.name, benchmark.task, benchmark.metrics, benchmark.primary,
        benchmark.protocol_text, str(folder / benchmark.name),
        overlay=str(benchmark.overlay_path) if benchmark.overlay_path else None,
        where=benchmark.where, scale=benchmark.scale, parts=benchmark.parts,
    )  # fmt: skip


@contextlib.contextmanager
def _in_mirror(folder: Path) -> Iterator[None]:
    """A working directory in which the datasets' names are paths to synthetic ones; no network."""
    from eval.offline import offline

    offline(folder / "cache")
    os.environ["OPENAI_API_KEY"] = "unused"
    from eval.made import mirror

    with contextlib.chdir(mirror(folder / "mirror")):
        yield


def text(found: ReplyTable) -> str:
    """The table as lines of text: strict score, then the lenient one in brackets."""
    head = ["benchmark", *FORMS]
    rows = [
        [name, *(f"{_cell(of['strict'][form])} ({_cell(of['lenient'][form])})" for form in FORMS)]
        for name, of in found.items()
    ]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in [head, *rows]
    ]
    note = "Score of right replies in each form: strict reading (lenient reading)."
    return "\n".join([note, "", *(line.rstrip() for line in lines)])


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


if __name__ == "__main__":
    guard_terminal()
    sys.exit(main())
