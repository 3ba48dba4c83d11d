"""``targets=benchmark``: the train or dev split of benchmarks as target rows, as their tasks ask.

Each document goes through its lmms-eval task: the messages that it asks with are the question, its
target is the answer. They become LLaVA json in an artifact, each row with its benchmark as source.
The split that the benchmark itself asks is refused. A process of its own reads them, since
lmms-eval changes the process that it runs in.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from coincide.data.llava_json import read
from coincide.protocols import Requirement
from coincide.schema import Dataset, UserError
from coincide.store import Build, Step
from coincide.system.files import sha256_file, write_json
from coincide.system.processes import preexec_die_with_parent
from eval import card, mirror
from eval.mirror import Place
from eval.process import LOG_LINES, environment, python_path
from eval.request import BenchmarkJob
from eval.sample import Subsample
from eval.suite import Benchmark

VERSION = 1
TRAIN, IMAGES = "train.json", "images"


@dataclass(frozen=True)
class BenchmarkTargets:
    """Documents of ``split`` of some benchmarks; from ``files`` or each benchmark's dataset."""

    benchmarks: Mapping[str, Benchmark]
    split: str
    """Of the dataset, e.g. ``validation``; of a file only a name."""
    files: Mapping[str, str] | None = None
    """Name of a benchmark -> Parquet file with the columns that its task reads; None: none."""
    rows: int | None = None
    """About so many of each benchmark, always the same ones; None: all."""
    mirror: str | None = None
    """Folder with datasets as on the hub."""
    name: str = ""
    """Of the artifact; empty: of the benchmarks and the split."""

    def __post_init__(self) -> None:
        names = [benchmark.name for benchmark in self.benchmarks.values()]
        if not names or len(set(names)) < len(names):
            raise UserError(
                f"targets=benchmark: got benchmarks {', '.join(names) or 'none'}; expected one or "
                "more of different names."
            )
        if unknown := sorted(set(self.given) - set(names)):
            raise UserError(
                f"targets.files names {', '.join(unknown)}; the benchmarks are {', '.join(names)}."
            )
        if self.rows is not None and (type(self.rows) is not int or self.rows < 1):
            raise UserError(f"targets.rows={self.rows!r}; expected an int >= 1, or null for all.")
        for benchmark in self.benchmarks.values():
            self._check(benchmark)
        if not self.name:
            shown = "-".join(names) if len(names) <= 3 else f"{len(names)}_benchmarks"
            object.__setattr__(self, "name", f"{shown}-{self.split}")

    def _check(self, benchmark: Benchmark) -> None:
        if benchmark.name in self.given:
            return
        if not benchmark.dataset:
            raise UserError(
                f"benchmark {benchmark.name} has no dataset on the hub, only the questions that it "
                f"asks. Give its rows as targets.files={{{benchmark.name}: FILE.parquet}}."
            )
        asked = [split for splits in benchmark.splits.values() for split in splits]
        if self.split in asked:
            raise UserError(
                f"targets.split={self.split!r} is what benchmark {benchmark.name} asks: targets "
                "must not be the questions. Choose another split of its dataset, or "
                "targets=messages with rows of your own."
            )
        if len(benchmark.splits) > 1:
            raise UserError(
                f"benchmark {benchmark.name} reads several tables, {', '.join(benchmark.splits)}, "
                "which its task joins for its own split alone. Give its rows as targets=messages, "
                f"or as targets.files={{{benchmark.name}: FILE.parquet}}."
            )

    def step(self) -> Step:
        """The step that makes ``train.json`` and ``images/``; its key holds what the rows are made
        of. Raises UserError where a file or dataset is missing.
        """
        config = {"split": self.split, "rows": self.rows, "documents": self._identities()}
        return Step("data", self.name, VERSION, config, self._build)

    def size(self) -> int:
        """Not known before they are read. Raises UserError."""
        raise UserError(f"targets {self.name} have no size before they are read.")

    def open(self, artifact: Path) -> Dataset:
        """The target rows, each with its benchmark as source."""
        return read(
            artifact / TRAIN,
            artifact / IMAGES,
            name=self.name,
            source_of=lambda record: record["source"],
            tags_as_text=True,
        )

    def requirements(self) -> list[Requirement]:
        """Each dataset, or file, on this machine."""
        found = []
        for benchmark in self.benchmarks.values():
            if path := self.given.get(benchmark.name):
                there = Path(path).is_file()
                found.append(Requirement(f"targets of {benchmark.name}", there, path, "give it"))
            elif benchmark.dataset:
                wanted = self._wanted(benchmark)
                found.append(
                    mirror.requirement(
                        benchmark.dataset, wanted, [f"targets {self.name}"], self._mirror
                    )
                )
        return found

    @property
    def given(self) -> Mapping[str, str]:
        """``files``."""
        return self.files or {}

    @property
    def _mirror(self) -> Path | None:
        return None if self.mirror is None else Path(self.mirror).expanduser().absolute()

    def _wanted(self, benchmark: Benchmark) -> dict[str, list[str]]:
        return {config: [self.split] for config in benchmark.splits}

    def _identities(self) -> dict[str, Any]:
        """Benchmark -> what determines its rows: its task, which documents, and their content."""
        found = {}
        for benchmark in self.benchmarks.values():
            answer = benchmark.answer_config()
            kept = ("task", "task_files", "overlay", "dataset", "where", "parts")
            told = {name: answer[name] for name in kept if answer.get(name)}
            if path := self.given.get(benchmark.name):
                content = sha256_file(self._file(benchmark.name, path))
            else:
                content = mirror.content(self._place(benchmark))
            found[benchmark.name] = {**told, "content": content}
        return found

    def _file(self, name: str, path: str) -> Path:
        if not Path(path).is_file():
            raise UserError(f"targets.files.{name}={path}: no such file.")
        return Path(path).absolute()

    def _place(self, benchmark: Benchmark) -> Place:
        assert benchmark.dataset
        wanted = self._wanted(benchmark)
        if place := mirror.find(benchmark.dataset, wanted, self._mirror):
            there = card.declared_splits(card.read(place.folder))
            for config in wanted:
                if self.split not in there.get(config, [self.split]):
                    raise UserError(
                        f"targets.split={self.split!r}: dataset {benchmark.dataset} has the splits "
                        f"{', '.join(there[config])}; expected one that the benchmark does not ask."
                    )
            return place
        why = mirror.missing_message(benchmark.dataset, wanted, self._mirror)
        raise UserError(f"targets of benchmark {benchmark.name}, split {self.split}: {why}")

    def _build(self, build: Build) -> Mapping[str, Any]:
        cache = build.store.root / ".cache"
        facts: dict[str, int] = {}
        records: list[Any] = []
        for benchmark in self.benchmarks.values():
            found, left_out = self._read(benchmark, build.dir, cache)
            records += found
            facts |= {f"rows of {benchmark.name}": len(found)}
            facts |= {f"without an answer in {benchmark.name}": left_out} if left_out else {}
        if not records:
            raise UserError(f"targets {self.name}: no document has an answer.")
        write_json(build.dir / TRAIN, records)
        return {"rows": len(records), **facts}

    def _read(self, benchmark: Benchmark, out: Path, cache: Path) -> tuple[list[Any], int]:
        """The records of one benchmark, and how many documents have no answer."""
        folder = None
        if benchmark.name not in self.given:
            place = self._place(benchmark)
            assert benchmark.dataset
            folder = mirror.view(benchmark.dataset, place, mirror.content(place), cache)
        with TemporaryDirectory(dir=out.parent) as temporary:
            work = Path(temporary)
            job = self._job(benchmark, work)
            request = {"job": asdict(job), "out": str(out), "cache": str(folder or cache)}
            write_json(work / "request.json", request)
            _run(work, folder, benchmark.name)
            answer = json.loads((work / "records.json").read_text(encoding="utf-8"))
        return answer["records"], answer["left_out"]

    def _job(self, benchmark: Benchmark, work: Path) -> BenchmarkJob:
        """The benchmark over the split, which replaces the one that its task asks."""
        overlay: dict[str, Any] = {"test_split": self.split, "validation_split": None}
        if benchmark.overlay_path:
            overlay["include"] = str(benchmark.overlay_path)
        write_json(work / "split.yaml", overlay)  # JSON is YAML
        path = self.given.get(benchmark.name)
        files = {self.split: str(self._file(benchmark.name, path))} if path else {}
        sampled = Subsample(self.rows) if self.rows else None
        return BenchmarkJob(
            name=benchmark.name,
            task=benchmark.task,
            metrics=dict(benchmark.metrics),
            primary=benchmark.primary,
            protocol="",
            output=str(work),
            tasks_dir=str(benchmark.tasks_path) if benchmark.tasks_path else None,
            overlay=str(work / "split.yaml"),
            data_files=files,
            generation=dict(benchmark.generation),
            where=dict(benchmark.where),
            subsample=sampled,
            parts=benchmark.parts,
        )


def _run(work: Path, folder: Path | None, name: str) -> None:
    """``python -m eval.targets`` on the request in ``work``; UserError with its last words."""
    with (work / "log.txt").open("wb") as log:
        code = subprocess.run(
            [sys.executable, "-m", "eval.targets", str(work / "request.json")],
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**environment(), "PYTHONPATH": python_path()},
            preexec_fn=preexec_die_with_parent(),
            check=False,
        ).returncode
    if code:
        lines = (work / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
        raise UserError(
            f"targets of benchmark {name} cannot be read:\n" + "\n".join(lines[-LOG_LINES:])
        )


# --- the process ---------------------------------------------------------------------------------


def main(path: Path) -> None:
    """Read the documents of the request in ``path``; writes ``records.json`` beside it."""
    from eval.offline import offline

    request = json.loads(path.read_text(encoding="utf-8"))
    offline(Path(request["cache"]))
    from eval.loading import load_tasks
    from eval.request import read_job

    job = read_job(request["job"])
    _, tasks = load_tasks([job], path.parent / "tasks")
    records, left_out = records_of(tasks[job.name], job.name, Path(request["out"]))
    write_json(path.parent / "records.json", {"records": records, "left_out": left_out})


def records_of(task: Any, name: str, out: Path) -> tuple[list[dict[str, Any]], int]:
    """LLaVA json of the task's documents, pictures as PNG below ``out/images``; and how many
    documents have no answer and are left out.
    """
    records: list[dict[str, Any]] = []
    left_out = 0
    documents = task.dataset[task.config.test_split]
    for at in range(len(documents)):
        document = documents[at]
        answer = answer_of(task.doc_to_target(document), task, document)
        if not answer:
            left_out += 1
            continue
        records.append(_record(task.doc_to_messages(document), answer, f"{name}-{at}", name, out))
    return records, left_out


def _record(
    messages: Sequence[Any], answer: str, number: str, name: str, out: Path
) -> dict[str, Any]:
    from eval.messages import turns_and_pictures

    turns, pictures = turns_and_pictures(messages)
    shown = []
    for picture in pictures:
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        data = buffer.getvalue()
        path = Path(name) / f"{hashlib.sha256(data).hexdigest()[:16]}.png"
        shown.append(str(path))
        (out / IMAGES / path).parent.mkdir(parents=True, exist_ok=True)
        (out / IMAGES / path).write_bytes(data)
    said = [{"from": turn.role, "value": turn.text} for turn in turns]
    said.append({"from": "gpt", "value": answer})
    record: dict[str, Any] = {"id": number, "source": name, "conversations": said}
    return {**record, "image": shown} if shown else record


def answer_of(target: Any, task: Any, document: Any) -> str:
    """The text that a task's target stands for; empty if it has none.

    Of several answers the most frequent, of equals the first; a number of a choice is its text.
    """
    choices = task.doc_to_choice(document) if task.config.doc_to_choice is not None else None
    if type(target) is int and choices and 0 <= target < len(choices):
        target = choices[target]
    if isinstance(target, list | tuple):
        texts = [text for item in target if (text := answer_of(item, task, document))]
        return max(texts, key=texts.count, default="")
    if target is None or isinstance(target, Mapping):
        return ""
    return str(target).strip()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except UserError as error:
        sys.exit(str(error))
