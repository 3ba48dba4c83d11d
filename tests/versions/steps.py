"""What the steps of a run give on a tiny case: features, clusters, scores, subsets, recipes."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.versions.outputs import demo_source, store


def features(method: str) -> Any:
    """The signals of ``method`` over the demo: float64, stored as the pass stores them."""
    import run as program
    from coincide.features.engine.shards import ShardedArray, read_valid
    from coincide.stages import stages_of

    words = [f"method={method}", "data.n=200", "data.items=6", "stages=[features]"]
    there = store()
    with contextlib.redirect_stdout(io.StringIO()):
        (job,) = program.compose_all([*words, f"paths.store={there.root}"])
        for stage in stages_of(job.experiment, job.stages):
            todo = [step for step in stage.steps if there.find(step) is None]
            if todo:
                stage.build(there, todo)
    found = {}
    for signal in job.experiment.signals:
        folder = there.artifact(job.experiment.signal(signal)).path
        array = ShardedArray(folder)
        found[signal.name] = np.asarray(array[np.arange(len(array))]), read_valid(folder)
    return found


def clusters() -> Any:
    from coincide.ops.kmeans import spherical_kmeans

    rng = np.random.default_rng(0)
    middle = rng.standard_normal((8, 24))
    x = middle[rng.integers(8, size=240)] + 0.5 * rng.standard_normal((240, 24))
    centroids, assignment = spherical_kmeans(x.astype(np.float16), 8, 20, 1234)
    return np.asarray(assignment), np.asarray(centroids)


def _methods() -> dict[str, Any]:
    from baselines.clip_score import ClipScore
    from baselines.coido import CoIdo
    from baselines.d2_pruning import D2Pruning
    from baselines.datatailor import DataTailor
    from baselines.dics import Dics
    from baselines.el2n import El2n
    from baselines.full import Full
    from baselines.grand import Grand
    from baselines.icons import Icons
    from baselines.ifd import Ifd
    from baselines.length import Length
    from baselines.less import Less, Representatives
    from baselines.mix_to_max import MixToMax
    from baselines.onceselect import OnceSelect
    from baselines.perplexity import Perplexity
    from baselines.presel import PreSel
    from baselines.prism import Prism
    from baselines.rds import Rds
    from baselines.scalselect import ScalSelect
    from baselines.self_filter import SelfFilter
    from baselines.self_sup import SelfSup
    from baselines.semdedup import SemDeDup
    from baselines.tive import Balanced, Tive
    from baselines.typiclust import TypiClust
    from baselines.uniform import Random
    from baselines.visnec import VisNec
    from coincide.schema import SubsetOf
    from tests.baselines.pool import MAGIC

    of = PreSel(share=0.1).needs()[1]
    assert isinstance(of, SubsetOf)
    made: list[Any] = [
        Random(), Full(), El2n(), Perplexity(direction="low"), ClipScore(), SemDeDup(clusters=10),
        D2Pruning(), SelfSup(clusters=10), SelfFilter(), Grand(), Ifd(), Length(),
        TypiClust(clusters=10), Dics(clusters=10), PreSel(share=0.1), of.method,
        Prism(), ScalSelect(), Rds(),
        OnceSelect(steps=20, epochs=20), VisNec(clusters=5), MAGIC,
        Icons(), Less(), Representatives(clusters=10), Tive(), Balanced(), MixToMax(),
        DataTailor(cluster_rows=15), CoIdo(),
    ]  # fmt: skip
    return {method.name: method for method in made}


METHODS = tuple(_methods())


def matched() -> Any:
    """Random rows with the sources of another method's subset."""
    from baselines.el2n import El2n
    from baselines.matched import Matched
    from coincide.schema import SubsetOf
    from tests.baselines.pool import make_pool

    pool, other = make_pool(), El2n()
    pool.subsets[SubsetOf(other)] = np.asarray(other.select(pool, 60, 0).rows)
    return np.asarray(Matched("el2n", other).select(pool, 60, 0).rows)


def by_table() -> Any:
    """The rows of ``mmssr`` from a table of scores."""
    from baselines.mmssr import MmSsr
    from tests.baselines.pool import make_pool

    pool = make_pool()
    lines = [f"{e.row},s{e.row % 3},{e.row * 7 % 11},{e.row * 5 % 13}" for e in pool.examples]
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "scores.csv"
        table.write_text("\n".join(["row,style,counting,reading", *lines]), encoding="utf-8")
        return np.asarray(MmSsr(str(table)).select(pool, 60, 0).rows)


def by_attention() -> Any:
    """The rows of ``xmas``, whose trajectories are made here."""
    from baselines.xmas import Xmas
    from tests.baselines.pool import make_pool

    pool, rng = make_pool(), np.random.default_rng(4)
    method = Xmas(layers=(0,), at=(0.5, 1.0), clusters=5, least_rows=30)
    for need in method.needs():
        values = rng.exponential(size=(len(pool.examples), 1)).astype(np.float32)
        values[[not e.images for e in pool.examples]] = np.nan
        pool.signals[need] = values  # type: ignore[index]
    return np.asarray(method.select(pool, 60, 0).rows)


def sketches() -> Any:
    """Sketches of every kind, an Adam step, and spectra, of factors that are made here."""
    import torch

    from coincide.features.forward.gradients import adam_step
    from coincide.ops import sketch
    from coincide.ops.scores import spectrum
    from coincide.ops.sketch import MatrixShape

    rng = np.random.default_rng(6)
    matrices = [MatrixShape("a", 4, 40), MatrixShape("b", 2, 90)]
    parts = [torch.from_numpy(rng.standard_normal((2, m.rank, m.width))) for m in matrices]
    found = []
    for kind in ("hashed", "flat", "per_module"):
        made = sketch.start(kind, 8 if kind == "per_module" else 96, 3, 2, parts[0])
        for matrix, part in zip(matrices, parts, strict=True):
            made.add(matrix, part)
        found.append(made.result())
    step = adam_step(parts[0], parts[0] / 2, parts[0].square())
    return found, step, spectrum(parts[0][0])


def rows() -> Any:
    """What the table of rows keeps of the demo's annotations."""
    from coincide.data.kept import FILE, rows_step
    from coincide.data.llava_json import LlavaJson
    from coincide.data.table import open_rows

    there = store()
    folder = there.ensure(demo_source().step()).path
    source = LlavaJson(annotations=str(folder / "train.json"), images=str(folder / "images"))
    kept = open_rows(there.ensure(rows_step(source, source.content())).path / FILE)
    return [vars_of(example) for example in kept[:40]], list(kept.texts(range(40)))


def vars_of(example: Any) -> Any:
    return example.id, example.source, example.images, [(t.role, t.text) for t in example.turns]


def warm_up() -> Any:
    """After which steps a warm-up keeps its adapters, and the recipe that it trains by."""
    from baselines.uniform import Random
    from coincide.schema import SubsetOf, WarmUp
    from train.recipe import Recipe
    from train.warmup import recipe_of, steps_at

    need = WarmUp(SubsetOf(Random()), (0.02, 0.05), (("lr", 1e-4),))
    recipe = recipe_of(need, Recipe(global_batch=16, micro_batch=4))
    return recipe.answer_config(), steps_at(need.at, 4000, 200, recipe)


def scan() -> Any:
    """Which odd rows are refused, and which teach nothing, without and with a model."""
    from dataclasses import replace

    from coincide.models.probe import Prober
    from coincide.models.tiny import make_processor
    from coincide.schema import Turn
    from coincide.selection.scan import scan_rows

    whole = demo_source().open(store().ensure(demo_source().step()).path)
    one = next(e for e in whole.examples if e.images)
    ask, long = one.turns[0], "is the star red " * 300
    turns = (
        (ask,), (ask, Turn("gpt", "")), (ask, Turn("gpt", long)), (Turn("gpt", "yes"), ask),
        (Turn("human", "no picture?"), Turn("gpt", "yes")), (Turn("human", long), *one.turns),
        (replace(ask, text=f"<image>\n{ask.text}"), Turn("gpt", "two")), one.turns,
    )  # fmt: skip
    odd = [replace(one, row=row, turns=of) for row, of in enumerate(turns)]
    images: tuple[tuple[str, ...], ...] = (("gone.png",), ())
    odd += [replace(one, row=row, images=of) for row, of in enumerate(images, len(odd))]
    dataset = replace(whole, examples=odd)
    found = [scan_rows(dataset, None), scan_rows(dataset, Prober(make_processor(), "tiny", 512))]
    return [(dict(scan.refused), dict(scan.unlearnt)) for scan in found]


def selected(name: str) -> Any:
    """Rows and order that a method chooses from the pool in memory."""
    from tests.baselines.pool import make_pool

    found = _methods()[name].select(make_pool(), 60, 0)
    ranking = found.ranking if found.ranking is not None else np.zeros(0, np.int64)
    return np.asarray(found.rows), np.asarray(ranking[:120])


def coincide() -> Any:
    from coincide.method import select_coincide
    from coincide.ops.kmeans import spherical_kmeans

    rng = np.random.default_rng(0)
    middle = rng.standard_normal((12, 40))
    x = middle[rng.integers(12, size=300)] + rng.standard_normal((300, 40))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)
    centroids, assignment = spherical_kmeans(x, 12, 50, 1234)
    of = (x, assignment, centroids, 60)
    return [select_coincide(*of, layers=(3, 7), variant=v) for v in ("released", "paper")]


def scores() -> Any:
    """What methods rank by, where they score."""
    from tests.baselines.pool import make_pool

    pool = make_pool()
    scorers = {name: m for name, m in _methods().items() if hasattr(m, "score")}
    return {name: dict(method.score(pool, 0)) for name, method in scorers.items()}


def subset() -> Any:
    """The files of a subset of the demo."""
    from coincide.data.subset import write_subset

    dataset = demo_source().open(store().ensure(demo_source().step()).path)
    with tempfile.TemporaryDirectory() as folder:
        write_subset(Path(folder), dataset, [5, 3, 190, 77], {"k": 4})
        names = ("ids.json", "subset.json", "messages.json")
        texts = [(Path(folder) / name).read_text(encoding="utf-8") for name in names]
        return texts, np.load(Path(folder) / "rows.npy")


def difficulty() -> Any:
    """The batches and learning rates of Self-Filter's stage 1."""
    from coincide.schema import Difficulty
    from train.stage_one import epoch_batches, rate

    need = Difficulty(())
    rows = np.arange(100)
    return [epoch_batches(rows, need, epoch) for epoch in (0, 1)], [
        rate(at, 50) for at in range(50)
    ]


def training() -> Any:
    """Recipe, order of the examples, and what of each is learnt."""
    from coincide.models.encode import encode
    from coincide.models.template import TEMPLATES
    from coincide.models.tiny import make_processor
    from train.recipe import Recipe
    from train.sampler import micro_batches, plan

    dataset = demo_source().open(store().ensure(demo_source().step()).path)
    text_only = np.array([not e.images for e in dataset.examples])
    batches = plan(text_only, 16, 3, epochs=2, group=True)
    lengths = np.array([len(e.turns) for e in dataset.examples])
    shares = [
        micro_batches(b, lengths, global_batch=16, micro_batch=4, rank=1, world_size=2)
        for b in batches[:4]
    ]
    processor, template = make_processor(), TEMPLATES["tiny"]
    found = [encode(e, dataset, processor, template, 512) for e in dataset.examples[:200:9]]
    recipe = Recipe(global_batch=16, micro_batch=4).answer_config()
    return recipe, batches, shares, [(e.input_ids, e.labels) for e in found]


class _Asked:
    """Documents as a task of lmms-eval gives them to the targets' process."""

    class config:
        test_split = "dev"
        doc_to_choice = "choices"

    def __init__(self) -> None:
        from PIL import Image

        red = Image.new("RGB", (3, 2), "red")
        self.dataset = {"dev": [
            {"picture": red, "text": "What is it?", "target": ["a cat", "cat", "cat"]},
            {"picture": None, "text": "Which one?", "target": 1},
            {"picture": red, "text": "And this?", "target": ""},
        ]}  # fmt: skip

    def doc_to_choice(self, document: Any) -> list[str]:
        return ["iron", "wood"]

    def doc_to_target(self, document: Any) -> Any:
        return document["target"]

    def doc_to_messages(self, document: Any) -> list[Any]:
        content = [{"type": "text", "text": document["text"]}]
        if document["picture"] is not None:
            content.insert(0, {"type": "image", "url": document["picture"]})
        return [{"role": "user", "content": content}]


def benchmark_targets() -> Any:
    """Rows and pictures that the dev split of a benchmark becomes."""
    from eval.targets import IMAGES, records_of
    from tests.versions.outputs import pixels

    with tempfile.TemporaryDirectory() as folder:
        records, left_out = records_of(_Asked(), "made", Path(folder))
        root = Path(folder) / IMAGES  # a picture's name is a hash of the PNG, Pillow's business
        shown = [[pixels(root / name) for name in r.pop("image", ())] for r in records]
        return records, shown, left_out


def evaluation() -> Any:
    """How samples add up to a score."""
    from eval.parts import PARTS, ScoredSample

    said = ("yes", "no", None)
    items: dict[str, list[ScoredSample | None]] = {
        "mean": [ScoredSample(None, right) for right in (1.0, 0.0, 0.5)] + [None],
        "judged": [ScoredSample(None, right) for right in (1.0, 0.25)],
        "f1": [ScoredSample(None, float(s == t), s, t) for s in said for t in ("yes", "no")],
    }
    return {
        name: [None if part is None else part.record() for part in PARTS[name](of, 1.0)]
        for name, of in items.items()
    }
