"""``python -m coincide.influence RUN --sample BENCHMARK:ID``: which training rows did this.

RUN is a result of the ledger (JSON), the sample one that it was asked: the document ID of a
benchmark (``doc_id`` of its samples). Prints the rows of the run's subset whose gradients point
most along that of the sample, with its target as the answer, and most against it; and writes them
with their pictures to a page. The run's next report shows them too.

The rows' gradients are those of a store that a method made (``method=icons``, ``less``, ``tive``):
by a warm-up of the run's target, over the run's data. A step along a row's gradient lowers the loss
of the sample where the cosine is above 0 and raises it where it is below. It is an estimate, at the
warm-up's weights, of what training on the row did; it is not a run without the row.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from coincide.features.engine.shards import ShardedArray, read_valid
from coincide.features.passes.adapted import base_of
from coincide.ledger.evidence import ArtifactShelf
from coincide.ledger.files import presentable, read_result
from coincide.models.template import IMAGE, encoding_of
from coincide.report.gallery import examples_of
from coincide.report.influence_page import (
    AskedSample,
    GradientStore,
    Influence,
    Pulled,
    page,
    table,
)
from coincide.report.influences import folder_of, keep
from coincide.report.pictures import benchmark_pictures
from coincide.schema import Dataset, Example, Turn, UserError
from coincide.store import open_artifact
from coincide.system.files import write_text
from coincide.terminal.inert import console, guard_terminal

if TYPE_CHECKING:
    from coincide.ledger.result import Result

MAKE = (
    "Make one with a method that reads gradients of all rows, on the run's data and target: "
    "python run.py method=icons data={data} target={target} targets=... stages=[features,select]; "
    "less and tive leave one too."
)


def find_store(shelf: ArtifactShelf, run: Result) -> GradientStore:
    """The gradients of the run's data by a warm-up of its target; of several, plain ones before
    those of Adam, then those that the run selected by, then the later checkpoint.

    Raises UserError where the store holds none.
    """
    data, target = (run.contents.get(name, "") for name in ("data", "target"))
    found = []
    for folder in sorted((shelf.root or Path()).glob("features/gradients-*")):
        manifest = shelf.manifest(folder)
        config, needs = manifest.get("config", {}), manifest.get("needs", {})
        warmup = shelf.need(folder, "warmup")
        if config.get("signal") != "gradients" or warmup is None:
            continue
        base = next((v for k, v in shelf.manifest(warmup).get("needs", {}).items()
                     if k.startswith("needs.0.")), "")  # fmt: skip
        if _same(needs.get("needs.0.data", ""), data) and _same(base, target):
            found.append(GradientStore(folder, warmup, config))
    if not found:
        raise UserError(
            f"{shelf.root}: no gradients of the data {run.data} by a warm-up of {run.target}. "
            f"{_make(run)}"
        )
    own = {Path(cost.folder).name for cost in run.costs}
    order = [
        (s.config["params"]["kind"] == "sgd", s.folder.name in own, s.config["params"]["at"])
        for s in found
    ]
    return found[max(range(len(found)), key=lambda i: order[i])]


def _make(run: Result) -> str:
    return MAKE.format(data=run.data, target=run.target)


def _same(named: str, key: str) -> bool:
    """Whether an artifact's name ends in the digits that a result records of it."""
    digits = named.rpartition("-")[2]
    return bool(digits) and bool(key) and (key.startswith(digits) or digits.startswith(key))


def find_sample(shelf: ArtifactShelf, run: Result, named: str) -> AskedSample:
    """The sample ``BENCHMARK:ID``. Raises UserError, with the choices, where there is none."""
    benchmark, _, number = named.rpartition(":")
    measured = sorted({score.benchmark for score in run.scores})
    if benchmark not in measured or not number.isdigit():
        raise UserError(
            f"--sample={named}: expected BENCHMARK:ID, with one of {', '.join(measured)} and the "
            "doc_id of one of its samples, e.g. " + f"{measured[0] if measured else 'pope'}:17."
        )
    samples = shelf.samples(run, benchmark)
    if samples is None:
        raise UserError(f"the samples of {benchmark} are not in the store {shelf.root}.")
    document = int(number)
    record = samples.texts([document]).get(document)
    if record is None or not str(record.get("target", "")).strip():
        asked = samples.numbers["doc_id"]
        raise UserError(
            f"{benchmark} has {len(asked):,} samples with a score, and none with doc_id {document} "
            f"and a target; the first are {asked[:10].tolist()}."
        )
    pictures, absent = benchmark_pictures(shelf, run, benchmark, {document: record})
    # of a document without pictures the unit is its prompt, or the document
    shows = not str(record.get("unit", "prompt ")).startswith("prompt ")
    if document not in pictures and shows:
        raise UserError(
            f"{named} is asked about a picture, and it cannot be read: {absent}. Without it the "
            "gradient would be that of another question. Give the store of the run by --store, on "
            "a machine that has the benchmark."
        )
    return AskedSample(benchmark, document, record, pictures.get(document, []))


def gradient_of(sample: AskedSample, store: GradientStore, run: Result) -> np.ndarray:
    """float64 [D], of unit length: the sketch of the gradient of the target's loss, by the plain
    kind. Raises UserError where it is zero or not finite.
    """
    import torch

    from coincide.config import FeaturePass
    from coincide.features.forward.adapted import AdaptedModel
    from coincide.features.forward.gradients import GradientReading, GradientRun
    from coincide.models.encode import encode
    from coincide.models.load import load_model, load_processor
    from coincide.models.template import TEMPLATES

    config, params = store.config, store.config["params"]
    target = run.config.get("target")
    template = str(target.get("template", "")) if isinstance(target, Mapping) else ""
    if encoding_of(template) != config["template"]:
        raise UserError(
            f"{store.folder.name} was made with the template {config['template']}, and the run's "
            f"target has {template or 'none'}. {_make(run)}"
        )
    base = open_artifact(base_of(open_artifact(store.warmup).check().path)).check().path / "model"
    processor = load_processor(base)
    with tempfile.TemporaryDirectory() as folder:
        images = tuple(f"{number}.png" for number in range(len(sample.pictures)))
        for name, picture in zip(images, sample.pictures, strict=True):
            picture.convert("RGB").save(Path(folder) / name)
        said = str(sample.record.get("question", ""))
        if said.count(IMAGE) != len(images):  # as they were asked: before the text, unless inside
            said = f"{IMAGE}\n" * len(images) + said.replace(IMAGE, "")
        turns = (Turn("human", said), Turn("gpt", str(sample.record["target"])))
        example = Example(0, "sample", images, turns, sample.benchmark)
        dataset = Dataset("sample", Path(folder), Path(folder), [example])
        row = encode(example, dataset, processor, TEMPLATES[template], config["max_length"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = load_model(base, getattr(torch, config["dtype"]), device)
    adapter = store.warmup / "model" / f"at-{params['at']:02d}"
    reading = GradientReading(
        0, "sgd", params["loss"], params["projection"], params["dimension"], params["seed"]
    )
    work = GradientRun(
        AdaptedModel(network, [adapter]), [adapter], [reading],
        processor.tokenizer.pad_token_id, FeaturePass(),
    )  # fmt: skip
    found = work.read_at([reading], [row], None)[reading][0]
    if np.isnan(found).any():
        raise UserError(f"the gradient of {sample.benchmark}:{sample.document} is zero or NaN.")
    return found


def pulled(
    gradient: np.ndarray, store: GradientStore, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Those of ``rows`` that have a gradient, by falling cosine to ``gradient``; and the
    cosines.
    """
    open_artifact(store.folder).check()
    rows = rows[read_valid(store.folder)[rows]]
    values = ShardedArray(store.folder)
    cosine = np.concatenate(
        [values[rows[i : i + 4096]].astype(np.float64) @ gradient
         for i in range(0, len(rows), 4096)] or [np.empty(0)]
    )  # fmt: skip
    order = np.argsort(-cosine, kind="stable")
    return rows[order], cosine[order]


def influence(run: Result, shelf: ArtifactShelf, named: str, top: int) -> Influence:
    """What the rows of the run's subset did to the sample ``named``, with the ``top`` rows of each
    kind.

    Raises UserError for what is not there, DamagedArtifact for what is not as it was written.
    """
    folder, rows = shelf.subset(run), shelf.rows(run)
    if folder is None or rows is None:
        raise UserError(
            f"the subset of the run is not in the store {shelf.root}. Name it: --store."
        )
    sample, store = find_sample(shelf, run, named), find_store(shelf, run)
    order, cosine = pulled(gradient_of(sample, store, run), store, rows)
    up, down = np.arange(len(order))[:top], np.arange(len(order))[::-1][:top]
    up, down = up[cosine[up] > 0], down[cosine[down] < 0]
    examples, root = examples_of(shelf, run, folder, set(order[[*up, *down]].tolist()))

    def shown(places: np.ndarray) -> list[Pulled]:
        each = zip(order[places].tolist(), cosine[places].tolist(), strict=True)
        return [Pulled(examples.get(row, Example(row, "", (), (), "")), c) for row, c in each]

    return Influence(sample, store, shown(up), shown(down), len(order), int((cosine > 0).sum()),
                     int((cosine < 0).sum()), root)  # fmt: skip


def _keep(shelf: ArtifactShelf, run: Result, found: Influence) -> None:
    """For the report: what was found."""
    folder, sample = folder_of(shelf, run), found.sample
    texts = {n: str(sample.record.get(n, "")) for n in ("question", "target", "answer", "score")}
    sides = {
        side: [[each.example.row, each.cosine] for each in rows]
        for side, rows in (("up", found.up), ("down", found.down))
    }
    about = {"benchmark": sample.benchmark, "document": sample.document, "counts": found.counts}
    if folder is not None:
        keep(folder, {**about, **texts, "gradients": found.store.folder.name, **sides})


def _no_result(path: Path) -> str:
    folder = path if path.is_dir() else path.parent
    names = sorted(each.name for each in folder.glob("*.json")) if folder.is_dir() else []
    few = ", ".join(get_close_matches(path.name, names, 3, 0.3) or names[:3])
    return f"{path}: expected a result of the ledger (.json); " + (
        f"{folder} has {len(names):,}, e.g. {few}." if names else f"there is none in {folder}."
    )


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; exit status 2 where something that it needs is not there."""
    parser = argparse.ArgumentParser(prog="python -m coincide.influence", description=__doc__)
    parser.add_argument("run", type=Path, help="a result of the ledger (.json)")
    parser.add_argument("--sample", required=True, metavar="BENCHMARK:ID")
    parser.add_argument("--store", type=Path, default=Path("store"))
    parser.add_argument("--out", type=Path, default=Path("reports/influence"), help="folder")
    parser.add_argument("--top", type=int, default=8, help="rows of each kind")
    options = parser.parse_args(words)
    try:
        if options.run.suffix != ".json" or not options.run.is_file():
            raise UserError(_no_result(options.run))
        if options.top < 1:
            raise UserError(f"--top={options.top}: expected a whole number, 1 or more.")
        run = presentable(read_result(options.run))
        found = influence(run, ArtifactShelf(options.store), options.sample, options.top)
        _keep(ArtifactShelf(options.store), run, found)
        sample = found.sample
        options.out.mkdir(parents=True, exist_ok=True)
        path = options.out / f"{options.run.stem}-{sample.benchmark}-{sample.document}.html"
        write_text(path, page(found, options.run.stem))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console().print(table(found))
    print(found.counts)
    print(path)
    return 0


if __name__ == "__main__":
    guard_terminal()
    sys.exit(main())
