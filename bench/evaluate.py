"""Print what answering costs where questions share pictures, beside other ways to answer them.

    python -m bench.evaluate                       # LLaVA-1.5's tokens, a narrow model, minutes
    python -m bench.evaluate --only gqa pope --scale 2
    python -m bench.evaluate --device cuda --dtype bfloat16

Random weights; 576 tokens a picture, questions as long and as many a picture as those of each
benchmark of ``eval=paper``, answers of few tokens (long ones where the benchmark has them). The
same prompts are answered by the engine that shares prefixes, (a) in batches of one prompt, (b) in
plain batches of eight, and (c) by lmms-eval's own class ``llava_hf``. Printed: prompt tokens
computed over all of them, seconds of each way over the engine's, and answers that are equal. The
mix weighs each benchmark with its number of documents.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.made_models import NARROW_336, NARROW_TEXT, shaped
from bench.watch import clock
from coincide.models.template import TEMPLATES
from coincide.models.tiny import make_processor
from coincide.schema import Turn
from coincide.store.provenance import environment
from eval.decoding import Decoding
from eval.engine.shared import Counts
from eval.model import LmmsEvalModel
from eval.questions import CHUNK

TEMPLATE = TEMPLATES["tiny"]
WORDS = (
    "is",
    "the",
    "in",
    "left",
    "circle",
    "red",
    "small",
    "star",
    "two",
    "top",
    "letter",
    "dots",
)
"""One token each."""
PLAIN_BATCH = 8
TEXT = {
    **NARROW_TEXT, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 4,
    "num_attention_heads": 12, "num_key_value_heads": 12,
}  # fmt: skip
"""Wide enough for a CPU to spend its time in matrix products, as a GPU does at 7B's width."""


@dataclass(frozen=True)
class Workload:
    """How a benchmark asks."""

    documents: int
    pictures: int
    words: int
    """Of a question."""
    answer: int = 3
    """Tokens of an answer."""
    shown: int = 12
    """Pictures of the bench."""


WORKLOADS: Mapping[str, Workload] = {
    "vqav2": Workload(214_354, 40_504, 22),
    "gqa": Workload(12_578, 398, 24, shown=3),
    "vizwiz": Workload(4_319, 4_319, 40),
    "scienceqa_img": Workload(2_017, 2_017, 70),
    "textvqa": Workload(5_000, 3_166, 60),
    "pope": Workload(9_000, 500, 20, shown=4),
    "mme": Workload(2_374, 1_187, 25),
    "mmbench_en and cn": Workload(8_658, 1_164, 80, shown=4),
    "llava_w": Workload(60, 24, 30, answer=64, shown=3),
}
"""Documents and distinct pictures of the splits that ``eval=paper`` asks; MMBench's pictures are at
most its questions, each asked in its rotations and in two languages."""
Prompts = Sequence[tuple[str, Image.Image]]


@dataclass
class Way:
    """One way to answer."""

    seconds: float
    answers: list[str]


def questions(load: Workload, scale: float) -> list[tuple[str, Image.Image]]:
    """Questions, several about a picture, in the order of the pictures."""
    random = np.random.default_rng(0)
    shown = max(1, round(load.shown * scale))
    found = []
    for number in range(round(shown * load.documents / load.pictures)):
        noise = np.random.default_rng(number % shown).integers(0, 255, (24, 24, 3), dtype=np.uint8)
        picture = Image.fromarray(noise).resize((336, 336))
        length = max(4, int(random.normal(load.words, load.words / 6)))
        found.append((number % shown, " ".join(random.choice(WORDS, length)), picture))
    return [(text, picture) for _, text, picture in sorted(found, key=lambda each: each[0])]


def engine(model: LmmsEvalModel, prompts: Prompts, decoding: Decoding) -> Way:
    """Answers of ``model``, as an evaluation asks for them: chunk by chunk, from PIL images."""
    answers: list[str] = []
    with clock() as spent:
        for start in range(0, len(prompts), CHUNK):
            prepared: dict[bytes, torch.Tensor] = {}
            encoded = [
                model.encode([Turn("human", f"<image>\n{text}")], [picture], prepared)
                for text, picture in prompts[start : start + CHUNK]
            ]
            answers += model.answers(encoded, decoding)
        _finish(model.device)
    return Way(spent.wall, answers)


def llava_hf(folder: Path, device: str, dtype: str) -> Callable[[Prompts, Decoding], Way]:
    """Answers of lmms-eval's own class, asked by its own requests."""
    from lmms_eval.api.instance import Instance

    # read on import and used for videos alone; not among this project's packages
    sys.modules.setdefault("decord", SimpleNamespace(VideoReader=None, cpu=None))  # type: ignore[arg-type]
    from lmms_eval.models.simple.llava_hf import LlavaHf

    said = TEMPLATE.system + TEMPLATE.sep if TEMPLATE.system else ""
    chat = (
        f"{said}{{% for m in messages %}}{TEMPLATE.user}: {{{{ m['content'] }}}}{TEMPLATE.sep}"
        f"{{% endfor %}}{TEMPLATE.assistant}:"
    )
    model = LlavaHf(
        pretrained=str(folder), device=device, device_map=device, dtype=dtype, chat_template=chat
    )

    def answer(prompts: Prompts, decoding: Decoding) -> Way:
        settings = {"max_new_tokens": decoding.max_new_tokens, "until": []}
        model.task_dict = {"bench": {"test": list(prompts)}}
        requests = [
            Instance(
                request_type="generate_until",
                arguments=(text, dict(settings), lambda doc: [doc[1]], i, "bench", "test"),
                idx=0, metadata={"task": "bench", "doc_id": i, "repeats": 1},
            )
            for i, (text, _) in enumerate(prompts)
        ]  # fmt: skip
        with clock() as spent:
            answers = model.generate_until(requests)
            _finish(model.device)
        return Way(spent.wall, [decoding.cut(text) for text in answers])

    return answer


def _finish(device: Any) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def measured(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A row for each workload."""

    def model(batch: int, tokens: int | None) -> LmmsEvalModel:
        return LmmsEvalModel(
            folder, None, template=TEMPLATE, batch_size=batch, batch_tokens=tokens,
            dtype=args.dtype, device=args.device,
        )  # fmt: skip

    shared, one, plain = model(1, args.batch_tokens), model(1, None), model(PLAIN_BATCH, None)
    ways: dict[str, Callable[[Prompts, Decoding], Way]] = {
        "engine": lambda p, d: engine(shared, p, d),
        "(a)": lambda p, d: engine(one, p, d),
        "(b)": lambda p, d: engine(plain, p, d),
        "(c)": llava_hf(folder, args.device, args.dtype),
    }
    rows = []
    for name in args.only:
        load = WORKLOADS[name]
        prompts, decoding = questions(load, args.scale), Decoding(load.answer, 1, ())
        for way in ways.values():
            way(prompts[:2], decoding)  # warm
        assert shared.shared is not None
        shared.shared.counts = Counts()
        found = {key: way(prompts, decoding) for key, way in ways.items()}
        counts = shared.shared.counts
        row: dict[str, Any] = {
            "workload": name, "documents": load.documents, "questions": len(prompts),
            "tokens": counts.prompt_tokens, "computed": counts.computed_tokens,
        }  # fmt: skip
        for key, way in found.items():
            same = sum(x == y for x, y in zip(way.answers, found["(a)"].answers, strict=True))
            row[key] = {"seconds": way.seconds, "equal": same}
        rows.append(row)
        print(line(row), flush=True)
    return rows


def line(row: Mapping[str, Any]) -> str:
    """A row of the table."""
    mine = row["engine"]["seconds"]
    times = " | ".join(f"{row[key]['seconds'] / mine:.2f}" for key in ("(a)", "(b)", "(c)"))
    equal = " | ".join(
        f"{row[key]['equal']} of {row['questions']}" for key in ("engine", "(b)", "(c)")
    )
    return (
        f"| {row['workload']} | {row['questions']} | {row['computed'] / row['tokens']:.2f} | "
        f"{1000 * mine / row['questions']:.0f} ms | {times} | {equal} |"
    )


def mix(rows: Sequence[Mapping[str, Any]]) -> str:
    """All workloads, each with its number of documents."""
    weight = {row["workload"]: row["documents"] / row["questions"] for row in rows}

    def total(value: Callable[[Mapping[str, Any]], float]) -> float:
        return sum(weight[row["workload"]] * value(row) for row in rows)

    tokens = total(lambda row: row["computed"]) / total(lambda row: row["tokens"])
    mine = total(lambda row: row["engine"]["seconds"])
    times = [total(lambda r, key=key: r[key]["seconds"]) / mine for key in ("(a)", "(b)", "(c)")]  # type: ignore[misc]
    documents = sum(row["documents"] for row in rows)
    told = " | ".join(f"{each:.2f}" for each in times)
    return f"| mix | | {tokens:.2f} | {1000 * mine / documents:.0f} ms | {told} | | | |"


def main() -> None:
    """Answer the workload in each way and print questions a second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--scale", type=float, default=1.0, help="times as many pictures")
    parser.add_argument("--batch-tokens", type=int, default=32768)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    found = environment()
    print(json.dumps(found), flush=True)
    print("| workload | questions | tokens computed | engine, a question | (a) | (b) | (c) | "
          "engine equal to (a) | (b) | (c) |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as root:
        tokenizer = make_processor().tokenizer  # of the model's size: every answer has a text
        for part in shaped(tokenizer, {**TEXT, "vocab_size": len(tokenizer)}, NARROW_336):
            part.save_pretrained(root)
        print(mix(measured(args, Path(root))), flush=True)


if __name__ == "__main__":
    main()
