"""The model that lmms-eval sees: batches, padding, stop texts, text-only and many pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lmms_eval.api.instance import Instance
from PIL import Image

from coincide.models.encode import encode, encode_prompt
from coincide.models.template import TEMPLATES, Template
from coincide.schema import Dataset, Example, Turn, UserError
from eval.decoding import Decoding
from eval.loading import load_tasks
from eval.messages import turns_and_pictures
from eval.model import LmmsEvalModel
from eval.request import BenchmarkJob
from eval.worker import evaluate
from tests.eval.bench import make_adapter, make_parquet
from tests.tiny_llava import IMAGE_TOKENS, make_tiny_llava

GENERATION = {"max_new_tokens": 12, "do_sample": False, "until": []}


def picture(seed: int, size: tuple[int, int] = (24, 24)) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8))


def message(text: str, *pictures: Image.Image) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = [{"type": "image", "url": p} for p in pictures]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


DOCUMENTS = [
    message(
        "what " + "is the left shape " * (i * i % 7), *map(picture, range(9 * i, 9 * i + i % 3))
    )
    for i in range(19)
]
"""Lengths from 5 to about 40 tokens; no, one and two pictures."""


TWINS = """
task: twins
dataset_path: parquet
dataset_kwargs: {data_files: {test: none.parquet}}
test_split: test
output_type: generate_until
doc_to_text: question
doc_to_target: answer
doc_to_messages: !function utils.messages
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
metadata: {version: 2.5}
"""
TWINS_UTILS = """
def messages(doc):
    picture = {"type": "image", "url": doc["image"]}
    text = {"type": "text", "text": doc["question"]}
    shown = [picture, text, picture] if doc["image"] else [text]
    return [{"role": "user", "content": shown}]
"""


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llava(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def adapters(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folders = [tmp_path_factory.mktemp(f"adapter{seed}") for seed in range(2)]
    for seed, folder in enumerate(folders):
        make_adapter(model_dir, folder, seed=seed)
    return folders


@pytest.fixture(scope="module")
def llava(model_dir: Path) -> Callable[..., LmmsEvalModel]:
    def make(
        adapter: Path | None = None, *, batch_size: int = 8, template: str = "tiny"
    ) -> LmmsEvalModel:
        return LmmsEvalModel(
            model_dir, adapter, template=TEMPLATES[template], batch_size=batch_size, device="cpu"
        )

    return make


def ask(
    model: LmmsEvalModel, documents: list[Any], generation: dict[str, Any] | None = None
) -> list[str]:
    """The answers through the interface that lmms-eval uses."""
    settings = generation or GENERATION
    model.task_dict = {"task": {"test": documents}}
    requests = [
        Instance(
            request_type="generate_until",
            arguments=(str(d[-1]["content"]), lambda doc: doc, settings, i, "task", "test"),
            idx=0,
            metadata={"task": "task", "doc_id": i, "repeats": 1},
        )
        for i, d in enumerate(documents)
    ]
    return model.generate_until(requests)


@pytest.mark.parametrize("template", ["tiny", "vicuna_v1"])
def test_answers_do_not_depend_on_the_batch_size(
    llava: Callable[..., LmmsEvalModel], adapters: list[Path], template: str
) -> None:
    alone = ask(llava(adapters[0], batch_size=1, template=template), DOCUMENTS)
    assert len(set(alone)) > len(alone) // 2, "the answers should differ between documents"
    for batch_size in (3, 8, 64):
        assert ask(llava(adapters[0], batch_size=batch_size, template=template), DOCUMENTS) == alone


def test_the_order_of_the_requests_is_kept(llava: Callable[..., LmmsEvalModel]) -> None:
    answers = ask(llava(), DOCUMENTS)
    assert ask(llava(), DOCUMENTS[::-1]) == answers[::-1]


def test_every_batch_is_reported(llava: Callable[..., LmmsEvalModel]) -> None:
    model, counts = llava(batch_size=8), []
    model.answered = counts.append
    ask(model, DOCUMENTS)
    assert counts == [8, 8, 3]


def test_the_picture_and_the_adapter_matter(
    llava: Callable[..., LmmsEvalModel], adapters: list[Path]
) -> None:
    same_text = [message("what is it", picture(i)) for i in range(6)]
    assert len(set(ask(llava(), same_text))) > 1
    answers = [ask(llava(adapter), DOCUMENTS) for adapter in [None, *adapters]]
    assert answers[0] != answers[1] != answers[2] != answers[0]


def test_a_task_that_writes_its_own_messages(
    llava: Callable[..., LmmsEvalModel], tmp_path: Path
) -> None:
    """Two pictures and text between them, in a task of a folder of its own."""
    (tmp_path / "twins.yaml").write_text(TWINS)
    (tmp_path / "utils.py").write_text(TWINS_UTILS)
    make_parquet(tmp_path / "test.parquet", "attributes")
    job = BenchmarkJob(
        "twins", "twins", {"accuracy": "exact_match"}, "accuracy", "", str(tmp_path),
        str(tmp_path), {"test": str(tmp_path / "test.parquet")}, {"max_new_tokens": 3}, limit=7,
    )  # fmt: skip
    manager, tasks = load_tasks([job], tmp_path / "overlays")
    model, counts = llava(batch_size=4), []
    model.answered = counts.append
    evaluate(model, job, tasks["twins"], manager)
    assert counts == [4, 3]
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["n"], result["task_version"], result["lmms_eval"]) == (7, 2.5, "0.7.3")


def test_text_alone_and_every_kind_of_picture(
    llava: Callable[..., LmmsEvalModel], tmp_path: Path
) -> None:
    rgb = picture(3)
    rgb.save(tmp_path / "p.png")
    encoded = (tmp_path / "p.png").read_bytes()
    sources: list[Any] = [rgb, str(tmp_path / "p.png"), {"bytes": encoded, "path": None}]
    answers = ask(llava(), [message("what is it", source) for source in sources])
    assert answers[0] == answers[1] == answers[2]
    grey = ask(llava(), [message("what is it", picture(3).convert("L")), message("what is it")])
    assert len(grey) == 2


def test_new_weights_at_an_old_path_give_new_answers(
    llava: Callable[..., LmmsEvalModel], adapters: list[Path], tmp_path: Path
) -> None:
    path = tmp_path / "adapter"
    shutil.copytree(adapters[0], path)
    old = llava(path)
    first, old_name = ask(old, DOCUMENTS), repr(old)
    assert repr(llava(adapters[0])) == old_name, "the fingerprint names contents, not paths"
    shutil.copy(adapters[1] / "adapter_model.safetensors", path)
    new = llava(path)
    assert repr(new) != old_name
    assert ask(new, DOCUMENTS) == ask(llava(adapters[1]), DOCUMENTS) != first


def test_stop_texts_and_length(llava: Callable[..., LmmsEvalModel]) -> None:
    whole = ask(llava(), DOCUMENTS[:6])
    stop = whole[0][2:4]
    cut = ask(llava(), DOCUMENTS[:6], {**GENERATION, "until": [stop]})
    assert cut == [answer.partition(stop)[0].strip() for answer in whole]
    short = ask(llava(), DOCUMENTS[:6], {**GENERATION, "max_new_tokens": 1})
    assert all(w.startswith(s) and len(s) < len(w) for s, w in zip(short, whole, strict=True))


def test_generation_settings() -> None:
    assert Decoding.from_settings({"until": "ASSISTANT:"}) == Decoding(128, 1, ("ASSISTANT:",))
    assert (
        Decoding.from_settings({"until": None, "temperature": 0, "max_new_tokens": 16}).until == ()
    )
    assert Decoding(1, 1, ("\n\n", "USER")).cut(" red USER: a\n\nb") == "red"
    assert Decoding(1, 1, ()).cut("\x00a\x0bb\tc\nd\x1f") == "ab\tc\nd", "MMBench writes sheets"
    with pytest.raises(UserError, match="greedily"):
        Decoding.from_settings({"do_sample": True, "temperature": 0.7})


def test_the_prompt_is_how_training_began_its_examples(model_dir: Path, tmp_path: Path) -> None:
    from coincide.models.load import load_processor

    processor = load_processor(model_dir)
    picture(0).save(tmp_path / "p.png")
    for template in (TEMPLATES["tiny"], TEMPLATES["vicuna_v1"]):
        for pictures in ([], [picture(0)]):
            turns, _ = turns_and_pictures(message("what colour is it", *pictures))
            names = ("p.png",) * len(pictures)
            example = Example(0, "0", names, (*turns, Turn("gpt", "red")), "")
            dataset = Dataset("d", tmp_path, tmp_path, [example])
            trained = encode(example, dataset, processor, template, 4096)
            ids = encode_prompt(turns, pictures, processor, template).input_ids
            assert ids.tolist() == trained.input_ids[: len(ids)].tolist()
            assert trained.labels[: len(ids)].eq(-100).all()
            assert trained.labels[len(ids) :].ne(-100).all()
            assert (ids == processor.image_token_id).sum() == IMAGE_TOKENS * len(pictures)


def test_placeholders_of_the_task_stay_and_stray_ones_go() -> None:
    one, two = picture(0), picture(1)
    text = "compare <image> with <image>"
    cases = [
        (message(text, one, two), text),
        (message("which", one, two), "<image> <image>\nwhich"),
        (message("which <image> is it", one, two), "<image> <image>\nwhich  is it"),
        (message("what is <image>"), "what is "),
        ([{"role": "user", "content": "hello"}], "hello"),
    ]
    for messages, expected in cases:
        [turn], pictures = turns_and_pictures(messages)
        assert (turn.text, turn.text.count("<image>")) == (expected, len(pictures))


def test_interleaved_and_several_turns() -> None:
    parts = [
        {"type": "text", "text": "first"}, {"type": "image", "url": picture(0)},
        {"type": "text", "text": "then"}, {"type": "image", "url": picture(1)},
    ]  # fmt: skip
    turns, pictures = turns_and_pictures(
        [{"role": "user", "content": parts}, {"role": "assistant", "content": "ok"}]
    )
    assert turns == [Turn("human", "first <image>\nthen <image>"), Turn("gpt", "ok")]
    assert len(pictures) == 2


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([{"role": "tool", "content": "x"}], "role 'tool'"),
        ([{"role": "user", "content": [{"type": "video", "url": "x"}]}], "holds video"),
    ],
)
def test_what_the_model_does_not_take_is_refused(messages: list[Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        turns_and_pictures(messages)


def test_a_pickled_adapter_is_refused(llava: Callable[..., LmmsEvalModel], tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="safetensors"):
        llava(tmp_path)


def test_a_foreign_template_is_refused(model_dir: Path) -> None:
    foreign = Template("chatml", "", end="<|im_end|>")
    with pytest.raises(UserError, match="no token of this model's tokenizer"):
        LmmsEvalModel(model_dir, None, template=foreign, batch_size=1, device="cpu")
