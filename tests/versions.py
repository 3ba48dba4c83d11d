"""What each generator and step gives on a tiny case, as hashes beside their versions.

    python -m tests.versions             # compare with tests/assets/versions.json
    python -m tests.versions --update    # write it anew

A change of an output without a new version would leave old answers under a sound key. Hashed is
what does not depend on the CPU: texts, orders, rows, labels and pixels whole; what a model computes
in float64, rounded to 3 digits, a million million times what the order of its sums can change.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

TABLE = Path(__file__).parent / "assets" / "versions.json"


@dataclass(frozen=True)
class Case:
    """Something whose output stands behind a version."""

    version: Callable[[], Any]
    where: str
    """What is to be raised, and where it stands."""
    output: Callable[[], Any]
    """The output of a tiny case: texts, numbers and arrays, nested."""


def digest(value: Any) -> str:
    """Twelve hex digits of ``value``, arrays with dtype and shape; the order of keys is none."""
    found = hashlib.sha256()
    for part in _parts(value):
        found.update(part)
    return found.hexdigest()[:12]


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, dict):
        for key in sorted(value, key=str):
            yield f"{{{key}:".encode()
            yield from _parts(value[key])
    elif isinstance(value, list | tuple):
        yield f"[{len(value)}".encode()
        for item in value:
            yield from _parts(item)
    elif hasattr(value, "detach"):
        yield from _parts(value.detach().numpy())
    elif isinstance(value, np.ndarray):
        rounded = value.astype(np.float64).round(3) + 0.0 if value.dtype.kind == "f" else value
        yield f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(rounded).tobytes()
    else:
        yield repr(round(value, 6) if isinstance(value, float) else value).encode()


def _rng(*seeds: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(list(seeds)))


# --- data -------------------------------------------------------------------------------------


@cache
def _store() -> Any:
    """A store with the demo's tiny data, for this process."""
    from coincide.store import Store

    return Store(Path(tempfile.mkdtemp(prefix="versions-")) / "store")


def _demo() -> Any:
    from coincide.data.demo import Demo

    return Demo(n=200, items=6)


def _pixels(data: Any) -> np.ndarray:
    from PIL import Image

    with Image.open(data) as picture:
        return np.asarray(picture.convert("RGB"))


def demo() -> Any:
    """Annotations and pixels; how PNG packs them is Pillow's business."""
    folder = _store().ensure(_demo().step()).path
    images = sorted((folder / "images").rglob("*.png"))
    records = json.loads((folder / "train.json").read_text(encoding="utf-8"))
    return records, {str(p.relative_to(folder)): _pixels(p) for p in images}


def benchmarks() -> Any:
    """Questions, answers and pixels of each."""
    import pyarrow.parquet as pq

    folder = _store().ensure(_demo().step()).path / "benchmarks"
    rows = {p.parent.name: pq.read_table(p).to_pylist() for p in sorted(folder.glob("*/*.parquet"))}
    return {
        name: [{**row, "image": _pixels(io.BytesIO(row["image"]["bytes"]))} for row in of]
        for name, of in rows.items()
    }


def captions() -> Any:
    from coincide.data.demo.captions import any_scene, caption, dense, listed

    rng = _rng(0, 9)
    scenes = [any_scene(rng, split) for split in ("pretrain", "train", "test") for _ in range(20)]
    return [(dense(scene), listed(scene, rng), caption(scene, rng)) for scene in scenes]


def examples() -> Any:
    """LLaVA json as every later step sees it."""
    dataset = _demo().open(_store().ensure(_demo().step()).path)
    return [(e.row, e.id, e.images, [(t.role, t.text) for t in e.turns]) for e in dataset.examples]


# --- models -----------------------------------------------------------------------------------


def pretraining() -> Any:
    """What the tiny models learn from: the first batch of captions, and of cells."""
    from coincide.models import pretrain
    from coincide.models.tiny import make_processor

    batch = next(pretrain.batches(make_processor(), 1))
    return _inputs(batch), [pretrain.schedule(step, 50) for step in range(50)], pretrain.CLASSES


def clip_pretraining() -> Any:
    from coincide.models.clip import make_clip_processor
    from coincide.models.pretrain_clip import captioned

    return _inputs(captioned(_rng(0, 5, 0), 16, "pretrain", make_clip_processor()))


def _inputs(batch: dict[str, Any]) -> Any:
    pixels = np.asarray((batch.pop("pixel_values") + 1) * 127.5).round().astype(np.uint8)
    return pixels, dict(batch)


def perception() -> Any:
    """The questions of the gate: what the model is shown and what is right."""
    from coincide.models.perception import caption_accuracy
    from coincide.models.tiny import make_processor

    shown: list[Any] = []

    def model(**batch: Any) -> Any:
        shown.append(_inputs({k: v for k, v in batch.items() if k != "use_cache"}))
        raise StopIteration

    with contextlib.suppress(StopIteration):
        caption_accuracy(model, make_processor(), scenes=8, seed=7)
    return shown


def tiny_model() -> Any:
    """Words, picture and shapes of the weights."""
    from PIL import Image

    from coincide.models.tiny import SIZES_OF, WORDS, make_model, make_processor

    processor = make_processor()
    picture = Image.fromarray(np.arange(48 * 48 * 3, dtype=np.uint8).reshape(48, 48, 3))
    seen = processor(text="<image>\nWhat colour is the star?", images=picture, return_tensors="pt")
    shapes = {
        size: {k: list(v.shape) for k, v in make_model(SIZES_OF[size], processor.tokenizer)
               .state_dict().items()}
        for size in SIZES_OF
    }  # fmt: skip
    return list(WORDS), {k: np.asarray(v) for k, v in seen.items()}, shapes


def tiny_clip() -> Any:
    from coincide.models.clip import make_clip, make_clip_processor

    processor = make_clip_processor()
    ids = processor.tokenizer(["large red star", "top left : empty"], padding=True).input_ids
    model = make_clip(processor.tokenizer)
    return ids, {k: list(v.shape) for k, v in model.state_dict().items()}


# --- steps ------------------------------------------------------------------------------------


def features(method: str) -> Any:
    """The signals of ``method`` over the demo: float64, stored as the pass stores them."""
    import run as program
    from coincide.features.engine.shards import ShardedArray, read_valid
    from coincide.stages import stages_of

    words = [f"method={method}", "data.n=200", "data.items=6", "stages=[features]"]
    store = _store()
    with contextlib.redirect_stdout(io.StringIO()):
        (job,) = program.compose_all([*words, f"paths.store={store.root}"])
        for stage in stages_of(job.experiment, job.stages):
            todo = [step for step in stage.steps if store.find(step) is None]
            if todo:
                stage.build(store, todo)
    found = {}
    for signal in job.experiment.signals:
        folder = store.artifact(job.experiment.signal(signal)).path
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
    from baselines.d2_pruning import D2Pruning
    from baselines.el2n import El2n
    from baselines.full import Full
    from baselines.perplexity import Perplexity
    from baselines.self_filter import SelfFilter
    from baselines.self_sup import SelfSup
    from baselines.semdedup import SemDeDup
    from baselines.uniform import Random

    made: list[Any] = [
        Random(), Full(), El2n(), Perplexity(direction="low"), ClipScore(), SemDeDup(clusters=10),
        D2Pruning(), SelfSup(clusters=10), SelfFilter(),
    ]  # fmt: skip
    return {method.name: method for method in made}


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

    dataset = _demo().open(_store().ensure(_demo().step()).path)
    with tempfile.TemporaryDirectory() as folder:
        write_subset(Path(folder), dataset, [5, 3, 190, 77], {"k": 4})
        names = ("ids.json", "subset.json", "messages.json")
        texts = [(Path(folder) / name).read_text(encoding="utf-8") for name in names]
        return texts, np.load(Path(folder) / "rows.npy")


def difficulty() -> Any:
    """The batches and learning rates of Self-Filter's stage 1."""
    from coincide.schema import Difficulty
    from train.stage_one import cut, rate

    need = Difficulty(())
    rows = np.arange(100)
    return [cut(rows, need, epoch) for epoch in (0, 1)], [rate(at, 50) for at in range(50)]


def training() -> Any:
    """Recipe, order of the examples, and what of each is learnt."""
    from coincide.models.encode import encode
    from coincide.models.template import TEMPLATES
    from coincide.models.tiny import make_processor
    from train.recipe import Recipe
    from train.sampler import micro_batches, plan

    dataset = _demo().open(_store().ensure(_demo().step()).path)
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


# --- the table --------------------------------------------------------------------------------


def _constant(module: str, name: str = "VERSION") -> Callable[[], Any]:
    from importlib import import_module

    return lambda: getattr(import_module(module), name)


def _weights(name: str) -> Callable[[], Any]:
    """Weights that ship are as good as a version: who retrains them changes their hash."""
    from coincide.models.tiny import ASSETS
    from coincide.system.files import sha256_file

    return lambda: sha256_file(ASSETS / f"{name}.safetensors")[:12]


def _step(module: str, output: Callable[[], Any], name: str = "VERSION") -> Case:
    return Case(_constant(module, name), f"{name} in {module.replace('.', '/')}.py", output)


_METHODS = (
    "random", "full", "el2n", "perplexity", "clip_score", "semdedup", "d2_pruning", "self_sup",
    "self_filter",
)  # fmt: skip
_PRETRAIN = "the shipped weights: python -m coincide.models.pretrain tiny, and tiny_ref"
CASES: dict[str, Case] = {
    "data/demo": _step("coincide.data.demo.source", demo),
    "data/demo/benchmarks": _step("coincide.data.demo.source", benchmarks),
    "data/examples": _step("coincide.data.llava_json", examples),
    "model/tiny": _step("coincide.models.tiny", tiny_model),
    "model/tiny/perception": _step("coincide.models.tiny", perception),
    "model/tiny/captions": Case(_weights("tiny"), _PRETRAIN, captions),
    "model/tiny/pretraining": Case(_weights("tiny"), _PRETRAIN, pretraining),
    "model/tiny_clip": _step("coincide.models.clip", tiny_clip),
    "model/tiny_clip/pretraining": Case(
        _weights("clip"), "the shipped weights: python -m coincide.models.pretrain_clip",
        clip_pretraining,
    ),
    **{
        f"features/{method}": _step("coincide.features.extract", lambda m=method: features(m))
        for method in ("coincide", "el2n", "semdedup", "clip_score")
    },
    "clusters": _step("coincide.selection.stage", clusters, "CLUSTERS_VERSION"),
    "difficulty": _step("train.self_filter", difficulty),
    "scores": _step("coincide.selection.scoring", scores),
    "subset": _step("coincide.selection.stage", subset, "SUBSET_VERSION"),
    "subset/coincide": _step("coincide.selection.stage", coincide, "SUBSET_VERSION"),
    **{
        f"subset/{name}": _step(
            "coincide.selection.stage", lambda n=name: selected(n), "SUBSET_VERSION"
        )
        for name in _METHODS
    },
    "adapter": _step("train.stage", training),
    "eval": _step("eval.stage", evaluation),
}  # fmt: skip


def current(name: str) -> dict[str, str]:
    """Version and hash of a case as the code is now."""
    case = CASES[name]
    return {"version": str(case.version()), "hash": digest(case.output())}


def verdict(name: str, known: dict[str, str] | None, found: dict[str, str]) -> str:
    """What is wrong and what to do; empty where the table has this version and this output."""
    if known == found:
        return ""
    update = "then write the table: python -m tests.versions --update"
    if known is None:
        return f"{name} is not in the table; {update.removeprefix('then ')}"
    if known["version"] == found["version"]:
        return (
            f"{name}: the output changed and its version did not, so stores keep the old output "
            f"under the same key. If the change is meant, raise {CASES[name].where}, {update}"
        )
    if known["hash"] == found["hash"]:
        return (
            f"{name}: the version is {found['version']} (the table has {known['version']}) and "
            "the output is the same, so everything would be computed again for nothing. Take the "
            f"version back, or, if it changed for what this case does not show, {update[5:]}"
        )
    return f"{name}: version and output changed together, as they should; {update}"


def main(words: list[str]) -> int:
    """Compare, or with ``--update`` rewrite the table."""
    known = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.is_file() else {}
    found = {name: current(name) for name in CASES}
    for name in CASES:
        if wrong := verdict(name, known.get(name), found[name]):
            print(wrong)
    if "--update" in words:
        TABLE.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return 0
    return int(known != found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
