"""``python -m eval.benchmarks_doc``: writes docs/BENCHMARKS.md, what each benchmark asks and
counts.

All of it but LLaVA-1.5's differences comes from the running code: the prompts are those of the
loaded tasks, on a small synthetic document (``eval.made``).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from eval.request import BenchmarkJob
from eval.suite import PROMPTS, Benchmark

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "BENCHMARKS.md"
LIBRARIES = ("lmms-eval", "datasets")
HEAD = """# Benchmarks

What each benchmark of `conf/benchmark` asks, what counts as right, and where LLaVA-1.5's protocol
is another one. Written by `python -m eval.benchmarks_doc` (in `make docs`), from the tasks as they
run on a made document each, with {versions}; a test compares.

`eval.prompts=lmms_eval` (the default) asks as lmms-eval's tasks do, `eval.prompts=llava_1_5` as the
scripts of LLaVA-1.5 (haotian-liu/LLaVA, commit c121f04) where these differ: the benchmarks with two
prompts below. `<image>` is where a picture stands. Decoding is greedy, with one beam. An answer
ends before a stop text that the task's own file names, and not at the first blank line, which
lmms-eval adds to the others. Right is what the strict reading counts; [REPLIES.md](REPLIES.md) has
the lenient one and the forms that each reads. A missing hint is never asked, however the data spell
it. Intervals draw the unit of resampling anew, with all its questions:
[INTERVALS.md](INTERVALS.md).
"""
LLAVA: Mapping[str, str] = {
    "vqav2": "test-dev, scored by the server; up to 128 tokens",
    "gqa": "of punctuation a final full stop alone is taken off; up to 128 tokens",
    "vizwiz": "test-dev, scored by the server; the question is not lower-cased",
    "scienceqa_img": "`The answer is X.` is read too; options on one line; up to 1024 tokens",
    "textvqa": "the OCR tokens come from a file of its own",
    "textvqa_no_ocr": "OCR tokens are given: `textvqa`",
    "pope": "the mean of the F1 of the three categories, here pooled over them",
    "mme": "MME's own script, which takes any letters, `Snow` as no; up to 128 tokens",
    "mmbench_en": "the hint has its own line, no `There are several options:`, no blank line; the "
    "server scores, with a judge where it reads no letter",
    "mmbench_cn": "as `mmbench_en`, and another Chinese sentence; up to 1024 tokens",
    "seed": "the whole reply has to be the letter",
    "mmvet": "the question alone",
    "llava_w": "judged by gpt-4-0314 at temperature 0.2; up to 1024 tokens",
}
"""What LLaVA-1.5's scripts do otherwise."""
JUDGE = ", by the model that `eval.judge` names"
NOTES: Mapping[str, str] = {
    "mmmu": "pictures stand left to right in the order of their numbers; `result.json` counts the "
    "questions that name them in another, or one twice (`pictures_moved`)",
}
"""What else a reader must know about how a benchmark asks."""


def main() -> None:
    """Write the page."""
    with TemporaryDirectory() as name, contextlib.redirect_stdout(sys.stderr):
        from eval.replies import _in_mirror

        with _in_mirror(Path(name)):
            text = page(Path(name))
    PAGE.write_text(text, encoding="utf-8")


Key = tuple[str, str]
"""One of ``PROMPTS``, and the name of a benchmark."""


def page(folder: Path) -> str:
    """The page as text; ``folder`` is for temporary files.

    The working directory must be one in which names of datasets are paths to those of
    ``eval.made``.
    """
    from eval.loading import load_tasks

    asked, tasks = dict[Key, Benchmark](), dict[Key, Any]()
    for choice in PROMPTS:
        chosen = {b.name: b.asked_as(choice) for b in benchmarks() if _asks(b, choice)}
        _, loaded = load_tasks([_job(b, folder) for b in chosen.values()], folder / choice)
        asked |= {(choice, name): b for name, b in chosen.items()}
        tasks |= {(choice, name): task for name, task in loaded.items()}
    return render(asked, tasks)


def render(asked: Mapping[Key, Benchmark], tasks: Mapping[Key, Any]) -> str:
    """The page of these benchmarks and their loaded tasks."""
    versions = " and ".join(f"{name} {version(name)}" for name in LIBRARIES)
    names = sorted({name for _, name in asked})
    return "\n".join([HEAD.format(versions=versions), *(_section(n, asked, tasks) for n in names)])


def benchmarks() -> list[Benchmark]:
    """The benchmarks of ``conf/benchmark`` that read a dataset of the hub, sorted by name."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    paths = sorted((ROOT / "conf" / "benchmark").glob("*.yaml"))
    known = [instantiate(OmegaConf.load(path), _convert_="all") for path in paths]
    return [benchmark for benchmark in known if benchmark.dataset]


def _asks(benchmark: Benchmark, choice: str) -> bool:
    return choice == PROMPTS[0] or bool(benchmark.llava_1_5)


def _job(benchmark: Benchmark, folder: Path) -> BenchmarkJob:
    return BenchmarkJob(
        benchmark.name, benchmark.task, benchmark.metrics, benchmark.primary, "", str(folder),
        overlay=str(benchmark.overlay_path) if benchmark.overlay_path else None,
        where=benchmark.where, parts=benchmark.parts, **benchmark.stated,
    )  # fmt: skip


def _section(name: str, asked: Mapping[Key, Benchmark], tasks: Mapping[Key, Any]) -> str:
    from eval.decoding import Decoding
    from eval.rules import RULES

    benchmark, task = asked[PROMPTS[0], name], tasks[PROMPTS[0], name]
    decoding = Decoding.from_settings(task.config.generation_kwargs)
    stop = " or ".join(f"`{text}`" for text in decoding.until) or "none"
    lines = [
        f"## {name}", "",
        f"Task `{benchmark.task}` of lmms-eval over `{benchmark.dataset}`, "
        f"{benchmark.protocol['split']}{_part(benchmark)}.", "",
        f"- Metric: {benchmark.primary}{_others(benchmark)}",
        f"- Right: {RULES[benchmark.task].said}{JUDGE if benchmark.judge else ''}",
        f"- Unit of resampling: {_unit(benchmark, task)}",
        f"- Stop text: {stop}; at most {decoding.max_new_tokens} tokens",
        f"- LLaVA-1.5: {LLAVA.get(name, 'not among its benchmarks')}",
    ]  # fmt: skip
    lines += [f"- Note: {NOTES[name]}"] if name in NOTES else []
    for choice in PROMPTS:
        if (choice, name) in asked:
            said = asked[choice, name].protocol["prompt"]
            lines += ["", f"`{choice}` ({said}):", "", *_quoted(_prompt(tasks[choice, name]))]
    return "\n".join([*lines, ""])


def _part(benchmark: Benchmark) -> str:
    told = {"part": "{} alone", "ocr_tokens": "OCR tokens: {}"}
    return "".join(
        f", {text.format(benchmark.protocol[key])}"
        for key, text in told.items()
        if key in benchmark.protocol
    )


def _others(benchmark: Benchmark) -> str:
    others = [metric for metric in benchmark.metrics if metric != benchmark.primary]
    low, high = benchmark.range
    return f" ({low:g} to {high:g}){'; beside it ' + ', '.join(others) if others else ''}"


def _unit(benchmark: Benchmark, task: Any) -> str:
    """The unit of resampling in the words of the report, and how units are told apart."""
    from eval.units import BY_PARTS

    if kind := BY_PARTS.get(benchmark.parts):
        return f"the {kind}"
    named = benchmark.unit and benchmark.unit in task.eval_docs.column_names
    return f"the picture, by {f'column `{benchmark.unit}`' if named else 'its content'}"


def _prompt(task: Any) -> str:
    """The longest prompt of the documents; it has a hint if any of them has one."""
    from eval.messages import turns_and_pictures

    asked = [turns_and_pictures(task.doc_to_messages(doc))[0] for doc in task.eval_docs]
    return max(("\n".join(turn.text for turn in turns) for turns in asked), key=len)


def _quoted(text: str) -> Iterator[str]:
    yield "```text"
    yield from (line.rstrip() for line in text.splitlines())
    yield "```"


if __name__ == "__main__":
    main()
