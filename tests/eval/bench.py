"""Seven small benchmarks, a tiny LLaVA and a store: evaluation for real, in seconds."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

from coincide.ledger.result import Score
from coincide.store import Artifact, Build, Step, Store
from eval.stage import eval_steps
from eval.suite import Suite
from tests.tiny_llava import make_tiny_llava

CONF = Path(__file__).resolve().parents[2] / "conf"
ROWS = 20
ANSWERS = {
    "attributes": ["red", "the blue one", "large"],
    "counting": ["3", "seven", "12"],
    "presence": ["yes", "no", "no"],
    "choice": ["A", "C", "D"],
    "reading": ["a", "The cat.", "42"],
    "spatial": ["left", "above", "to the right"],
    "charts": ["15", "blue", "4.5"],
}
CHOICES = "\nA. red\nB. green\nC. blue\nD. dark blue"


def suite(**changes: Any) -> Suite:
    """``conf/eval/demo.yaml`` with changes, e.g. ``batch_size=1``."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        words = [f"++eval.{key}={value}" for key, value in changes.items()]
        config = compose(overrides=["+eval=demo", *words])
    return instantiate(config.eval, _convert_="all")


def answer(name: str, row: int) -> str:
    return ANSWERS[name][row % 3]


def question(name: str, row: int) -> str:
    return f"what {name} {'of the red circle ' * (row % 4)}" + CHOICES * (name == "choice")


def make_parquet(path: Path, name: str, *, rows: int = ROWS, pixels: int = 24) -> None:
    """Questions of several lengths; every fifth row is text-only."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(len(name))
    columns: dict[str, list[Any]] = {
        "question_id": [100 + i for i in range(rows)],
        "image": [None if i % 5 == 4 else {"bytes": _png(rng, pixels), "path": f"{i}.png"}
                  for i in range(rows)],
        "question": [question(name, i) for i in range(rows)],
        "answer": [answer(name, i) for i in range(rows)],
        "category": [f"kind{i % 2}" for i in range(rows)],
    }  # fmt: skip
    types: dict[str, Any] = {
        "question_id": pa.int64(),
        "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        **dict.fromkeys(("question", "answer", "category"), pa.string()),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns, schema=pa.schema(types)), path)


def _png(rng: np.random.Generator, pixels: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (pixels, pixels, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def make_adapter(model_dir: Path, folder: Path, *, seed: int) -> None:
    """A LoRA whose two factors are both random, so that it changes the answers."""
    import torch
    from peft import LoraConfig, get_peft_model

    from coincide.models.load import load_model

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LoraConfig(
            r=4, lora_alpha=8, init_lora_weights=False, target_modules=r".*language_model.*proj",
            modules_to_save=["multi_modal_projector"],
        )  # fmt: skip
        adapted = get_peft_model(load_model(model_dir, torch.float32, "cpu"), config)
        for name, parameter in adapted.named_parameters():
            if "modules_to_save" in name:
                parameter.data += 0.1 * torch.randn_like(parameter)
    adapted.save_pretrained(str(folder))


@dataclass(frozen=True)
class TinyModel:
    name: str = "tiny"
    template: str = "tiny"
    max_length: int = 128

    def step(self) -> Step:
        return Step("target", "tiny", 1, {}, lambda build: make_tiny_llava(build.dir) and None)


def data_step() -> Step:
    def build(build: Build) -> None:
        for name in ANSWERS:
            make_parquet(build.dir / "benchmarks" / name / "test.parquet", name)

    return Step("data", "demo", 1, {}, build)


def adapter_step(seed: int = 0) -> Step:
    def build(build: Build) -> None:
        make_adapter(build.need(0).path / "model", build.dir / "adapter", seed=seed)

    return Step("adapter", f"lora{seed}", 1, {"seed": seed}, build, (TinyModel().step(),))


def steps(store: Store, names: str = "", *, adapter: int | None = 0, **changes: Any) -> list[Step]:
    """The demo suite's steps for the benchmarks in ``names`` (all when empty), needs built."""
    lora = None if adapter is None else adapter_step(adapter)
    base, data = TinyModel().step(), data_step()
    for need in [base, data, *([lora] if lora else [])]:
        store.ensure(need)
    made = eval_steps(suite(**changes), model=TinyModel(), base=base, adapter=lora, data=data)
    return [s for s in made if not names or s.config["benchmark"] in names.split()]


def scores(artifact: Artifact) -> dict[str, Score]:
    record = json.loads((artifact.path / "result.json").read_text())
    return {score["metric"]: Score(**score) for score in record["scores"]}


def samples(artifact: Artifact) -> list[dict[str, Any]]:
    lines = (artifact.path / "samples.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]
