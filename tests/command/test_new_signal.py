"""One file makes a signal: the guide's own, over pool and target rows, run and held to its rule."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, ViTForImageClassification

import run as program
from coincide.features.engine.shards import ShardedArray
from coincide.report.settings import setting
from coincide.schema import UserError
from coincide.stages import result_of
from coincide.store import Store
from launch.frozen import freeze, read
from launch.jobs import goal

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "ADD_A_SIGNAL.md"
SMALL = ["data.n=200", "method=near_targets", "budget=20", "stages=[features,select]"]


UNDECIDED = """
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from class_entropy import ClassEntropy
from coincide.schema import Selection


@dataclass(frozen=True)
class Undecided:
    name: str = "undecided"
    uses_seed: ClassVar[bool] = False
    fixed_size: ClassVar[bool] = False

    def needs(self):
        return (ClassEntropy(),)

    def select(self, pool, k, seed):
        entropy = pool.signal(ClassEntropy())[:, 0]
        rows = np.flatnonzero(pool.usable & np.isfinite(entropy))
        return Selection(rows[np.argsort(-entropy[rows], kind="stable")][:k])
"""


@pytest.fixture
def guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The guide's files, beside the project and not in it."""
    text = GUIDE.read_text(encoding="utf-8")
    blocks = {b.split("\n", 1)[0].removeprefix("# "): b for _, b in
              re.findall(r"```(python|yaml)\n(.*?)```", text, re.S)}  # fmt: skip
    shutil.copytree(program.CONF, tmp_path / "conf")
    (tmp_path / "undecided.py").write_text(UNDECIDED)
    own = "coincide.features.signals.", "coincide.features.passes.", "baselines."
    for place, block in blocks.items():
        path = tmp_path / (place if place.startswith("conf/") else Path(place).name)
        for package in own:
            for name in ("text_mean", "near_targets", "classifier", "class_entropy", "undecided"):
                block = block.replace(f"{package}{name}", name)
        path.parent.mkdir(exist_ok=True)
        if place.startswith("conf/"):  # the line that names the file is none of it
            block = block.split("\n", 1)[1]
        path.write_text(block)
        if path.suffix == ".py":  # of an earlier test's folder
            monkeypatch.delitem(sys.modules, path.stem, raising=False)
    monkeypatch.delitem(sys.modules, "undecided", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(program, "CONF", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_guides_signal_and_its_targets(guide: Path) -> None:
    (plain,) = program.compose_all([*SMALL[:1], "method=random", "budget=20", SMALL[3]])
    program.executor(plain).run(plain)
    (data,) = (guide / "store" / "data").iterdir()
    rows = json.loads((data / "train.json").read_text())
    chosen = [3, 50, 121]
    (guide / "dev.json").write_text(json.dumps([rows[i] for i in chosen]))

    words = [*SMALL, "targets=llava_json", "targets.annotations=dev.json"]
    (job,) = program.compose_all([*words, f"targets.images={data / 'images'}"])
    program.executor(job).run(job)
    experiment = job.experiment
    pool, targets = (
        np.asarray(ShardedArray(Store(guide / "store").artifact(each.step).path))
        for each in experiment.wanted
    )
    assert pool.shape == (200, targets.shape[1])
    assert len(targets) == 3
    np.testing.assert_array_equal(targets, pool[chosen])  # the same rows, in another batch
    subset = experiment.store.artifact(experiment.subset)
    assert set(chosen) <= set(np.load(subset.path / "rows.npy").tolist())
    named = [name for name in subset.manifest["needs"].values() if "targets" in name]
    assert len(named) == 1, "the manifest names what the method looked at"


def test_a_method_that_looks_at_targets_asks_for_them(guide: Path) -> None:
    (job,) = program.compose_all(SMALL)
    with pytest.raises(UserError, match="near_targets looks at target rows, and none are given"):
        program.executor(job).run(job)


@pytest.fixture
def classifier(guide: Path) -> Path:
    """A ViT of random weights that tells three classes apart."""
    from transformers import ViTConfig, ViTForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    made = ViTConfig(image_size=32, patch_size=16, intermediate_size=16, num_labels=3, **shape)
    ViTForImageClassification(made).save_pretrained(guide / "vit")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(guide / "vit")
    return guide / "vit"


def test_the_guides_model_is_one_file(classifier: Path, tmp_path: Path) -> None:
    """With its YAML: no line of the project changes, and the model is in key, plan and ledger."""
    chosen = ["models.classifier.repo=vit", "models.classifier.dtype=float64"]
    words = ["data.n=200", "method=undecided", "budget=10", SMALL[3], *chosen]
    (job,) = program.compose_all(words)
    program.executor(job).run(job)
    mine = job.experiment
    (wanted,) = mine.wanted
    values = np.asarray(ShardedArray(mine.store.artifact(wanted.step).path))[:, 0]

    # what transformers itself says of each picture
    network = ViTForImageClassification.from_pretrained(classifier).double().eval()
    processor = AutoImageProcessor.from_pretrained(classifier, backend="pil")
    dataset = mine.source.open(mine.store.artifact(mine.data).path)
    for example in dataset.examples[:40]:
        if not example.images:
            assert np.isnan(values[example.row])
            continue
        picture = Image.open(dataset.image_root / example.images[0]).convert("RGB")
        pixels = processor([picture], return_tensors="pt")["pixel_values"].double()
        with torch.inference_mode():
            p = network(pixel_values=pixels).logits[0].softmax(0).numpy()
        assert values[example.row] == pytest.approx(-(p * np.log(p)).sum(), rel=1e-5)
    rows = np.load(mine.store.artifact(mine.subset).path / "rows.npy")
    assert len(rows) == 10 and values[rows].min() >= np.nanmax(np.delete(values, rows))

    # identity: content in the ledger, key by the model's bytes, its fields in tables
    result = result_of(mine, upto="select")
    key = mine.models["classifier"].step().key[:12]
    assert result.contents["classifier"] == key and "clip" not in result.contents
    assert setting(result)["classifier.dtype"] == "float64"
    assert "classifier.repo" not in setting(result), "the content stands for it"
    (other,) = program.compose_all([*words[:-1], "models.classifier.dtype=float32"])
    assert other.experiment.subset.key != mine.subset.key

    # a queued job builds the same
    freeze(job, tmp_path / "frozen.yaml", tmp_path)
    found = read(tmp_path / "frozen.yaml")
    assert goal(program.make_job(found.cfg, found.words)) == goal(job)


def test_a_model_that_lacks_is_named_before_anything_runs(guide: Path) -> None:
    words = [*SMALL[:1], "method=undecided", "budget=10", SMALL[3]]
    (job,) = program.compose_all(words)
    assert "models" in job.experiment.config
    with pytest.raises(UserError, match="classifier: weights google/vit-base-patch16-224"):
        program.run([job])
    (without,) = program.compose_all([*words, "~models"])
    with pytest.raises(UserError, match=r"class_entropy off the model 'classifier', and there is"):
        _ = without.experiment.wanted
    for name in ("clip", "method"):
        with pytest.raises(UserError, match=f"models.{name}: expected a model .* name of its own"):
            program.compose_all([*words, f"+models.{name}={{_target_: a.B}}"])
    (plain,) = program.compose_all(["method=random"])
    assert "models" not in plain.experiment.config, "runs of before say the same"


def test_a_method_may_follow_one_that_brings_a_model(guide: Path) -> None:
    words = ["method=matched", "method.of=undecided", "models=classifier"]
    (job,) = program.compose_all(words)
    assert job.experiment.asks("classifier")
