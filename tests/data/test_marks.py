"""Marks that change what is learnt: kept and honoured where they leave a turn out, else refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from baselines.ranking import has_answer
from coincide.data.llava_json import READER, LlavaJson, inspect, read
from coincide.data.messages import Messages
from coincide.data.report import Policies
from coincide.data.subset import write_subset
from coincide.schema import Dataset, UserError
from coincide.store import Store
from tests.data.files import text_row, turn, write


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def talk(**mark: Any) -> dict[str, Any]:
    """Two answers, the first with ``mark``."""
    said = [turn("human", "hi"), {**turn("gpt", "bad"), **mark}, turn("human", "again")]
    return text_row(conversations=[*said, turn("gpt", "right")])


def as_chat(row: dict[str, Any]) -> dict[str, Any]:
    roles = {"human": "user", "gpt": "assistant"}
    turns = [{**t, "role": roles[t["from"]], "content": t["value"]} for t in row["conversations"]]
    said = [{k: v for k, v in t.items() if k not in ("from", "value")} for t in turns]
    return {"id": row["id"], "messages": said}


def opened(root: Path, rows: list[Any], kind: type[LlavaJson] = LlavaJson, **more: Any) -> Dataset:
    data = kind(str(write(root, rows)), str(root), **more)
    return data.open(Store(root / "store").ensure(data.step()).path)


NOT_LEARNT: list[dict[str, Any]] = [
    {"loss": False}, {"weight": 0}, {"weight": 0.0}, {"loss_weight": 0}, {"train": False},
    {"training": False}, {"loss_mask": 0}, {"output_with_loss": False}, {"loss_scale": 0.0},
    {"loss": False, "weight": 0, "train": None}, {"no_loss": True}, {"ignore_loss": 1},
    {"lossWeight": 0}, {"loss-mask": False}, {"noLoss": True}, {" loss mask ": 0},
]  # fmt: skip
LEARNT: list[dict[str, Any]] = [
    {}, {"loss": True}, {"weight": 1}, {"weight": 1.0}, {"loss": None}, {"train_detail": []},
    {"no_loss": False}, {"skip": None}, {"loss_name": "ce"},
    {"name": "bot", "score": 0.3, "id": 7}, {"tool_calls": [], "reasoning_content": ""},
    {"deleted": False, "valid": True, "label": 3}, {"meta": {"weight": 70, "loss": 0.3}},
    {"recipient": "all", "eos": True},
]  # fmt: skip


@pytest.mark.parametrize("kind", [LlavaJson, Messages])
def test_turns_not_to_be_learnt_are_marked_whoever_wrote_it(
    tmp_path: Path, kind: type[LlavaJson], capsys: pytest.CaptureFixture[str]
) -> None:
    form = as_chat if kind is Messages else dict
    rows = [form(talk(**mark)) for mark in (*NOT_LEARNT, *LEARNT)]
    examples = opened(tmp_path, rows, kind).examples
    said = f"{len(NOT_LEARNT)} answers are marked as not to be learnt"
    assert said in capsys.readouterr().out
    for example in examples[: len(NOT_LEARNT)]:
        assert [t.learn for t in example.turns] == [True, False, True, True]
    for example in examples[len(NOT_LEARNT) :]:
        assert all(t.learn for t in example.turns)


@pytest.mark.parametrize("kind", [LlavaJson, Messages])
def test_the_mark_stands_in_every_file_of_a_subset(tmp_path: Path, kind: type[LlavaJson]) -> None:
    form = as_chat if kind is Messages else dict
    dataset = opened(tmp_path, [form(talk(weight=0)), form(talk())], kind)
    (tmp_path / "out").mkdir()
    write_subset(tmp_path / "out", dataset, [0, 1], {})
    trained = read(tmp_path / "out" / "subset.json", tmp_path, name="subset")
    assert [e.turns for e in trained.examples] == [e.turns for e in dataset.examples]
    said = json.loads((tmp_path / "out" / "messages.json").read_text())
    assert [m.get("loss") for m in said[0]["messages"]] == [None, False, None, None]
    assert not any("loss" in m for m in said[1]["messages"])
    again = Messages(str(tmp_path / "out" / "messages.json"), str(tmp_path))
    found = again.open(Store(tmp_path / "again").ensure(again.step()).path)
    assert [e.turns for e in found.examples] == [e.turns for e in dataset.examples]


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("mark of what is learnt", talk(weight=0.5)),
    ("mark of what is learnt", talk(loss="no")),
    ("mark of what is learnt", talk(loss=True, weight=0)),
    ("mark of what is learnt", talk(mask=True)),
    ("mark of what is learnt", talk(train_detail=[{"begin_offset": 0, "end_offset": 2}])),
    ("mark of what is learnt", {**talk(), "loss_weight": 0.3}),
    ("mark of what is learnt", {**talk(), "weight": 0}),
    ("mark of what is learnt", {**talk(), "loss": False}),
    ("mark of what is learnt", {**talk(), "kto_tag": False}),
    ("mark of what is learnt", {**talk(), "label": False}),
    ("mark of what is learnt", {**talk(), "train_on_inputs": True}),
    ("mark of what is learnt", {**talk(), "loss_mask": [0, 1, 1]}),
    ("mark of what is learnt", {**talk(), "assistant_masks": [0, 1]}),
    ("mark of what is learnt", {**talk(), "completion_mask": [0, 1]}),
    ("mark of what is learnt", {**talk(), "importance_weight": 0.5}),
    ("mark of what is learnt", {**talk(), "no_loss": True}),
    ("mark of what is learnt", talk(is_masked=True)),
    ("mark of what is learnt", talk(use_loss=False)),
    ("mark of what is learnt", talk(train_on_this=1)),
    ("mark of what is learnt", talk(answer_loss_weights=[0, 1])),
    ("mark of what is learnt", {**talk(), "with_loss": False}),
    ("mark of what is learnt", talk(context_only=True)),
    ("mark of what is learnt", talk(included=False)),
    ("mark of what is learnt", talk(requires_grad=False)),
    ("mark of what is learnt", talk(label=False)),
    ("mark of what is learnt", talk(add_eos=False)),
    ("mark of what is learnt", talk(metadata={"loss": False})),
    ("mark of what is learnt", {**talk(), "extra_info": {"loss_weight": 0.3}}),
    ("mark of what is learnt", {**talk(), "weight": "0"}),
    ("mark of what is learnt", {**talk(), "label": "False"}),
    ("mark of what is learnt", {**talk(), "skip": 1}),
    ("mark of what is learnt", {**talk(), "mask_history": True}),
    ("mark of what is learnt", {**talk(), "for_training": False}),
    ("mark of what is learnt", {**talk(), "turn_weights": [0, 1]}),
    ("mark of what is learnt", {**talk(), "trainable_turns": [1]}),
    ("mark of what is learnt", {**talk(), "roles_to_train": ["user"]}),
    ("mark of what is learnt", {**talk(), "num_repeats": 3}),
    ("preference data", {**talk(), "rejected_response": "worse"}),
    ("preference data", {**talk(), "non_preferred_output": [turn("gpt", "worse")]}),
    ("preference data", {**talk(), "chosen": "a", "rejected": "b"}),
    ("preference data", {**talk(), "rejected_messages": [turn("gpt", "worse")]}),
    ("tool call", {**talk(), "tools": [{"name": "search"}]}),
    ("tool call", talk(function_call={"name": "x"})),
    ("tool call", talk(recipient="python")),
    ("text that is not read", talk(reasoning_content="let me think")),
]


@pytest.mark.parametrize("chat", [False, True])
def test_what_is_not_done_is_a_counted_fault(tmp_path: Path, chat: bool) -> None:
    kind = Messages if chat else LlavaJson
    rows = [
        {**as_chat(r), **{k: v for k, v in r.items() if k != "conversations"}} if chat else r
        for r in (talk(), *(row for _, row in REFUSED))
    ]
    dataset = opened(tmp_path, rows, kind, on_bad_row="drop")
    assert dataset.dropped == {n: kind for n, (kind, _) in enumerate(REFUSED, 1)}
    with pytest.raises(UserError, match="37 x mark of what is learnt: rows 1, 2, 3"):
        opened(tmp_path, rows, kind)


def test_notes_of_a_row_are_no_marks(tmp_path: Path) -> None:
    notes = {"train_on_inputs": False, "mask_prompt": True, "assistant_only_loss": True, "label": 0,
             "skip": False, "is_train": True, "weight": "heavy", "repeat": 1, "loss": "2.5",
             "roles_to_train": ["assistant"], "segmentation_mask": [1, 2], "train_id": 0,
             "meta": {"weight": "w", "train": True, "mask": [1]}}  # fmt: skip
    assert not opened(tmp_path, [{**talk(), **notes}], on_bad_row="drop").dropped


def test_a_question_marked_as_learnt_is_refused(tmp_path: Path) -> None:
    said = [{**turn("human", "q"), "train": True}, turn("gpt", "a")]
    harmless = [{**turn("human", "q"), "train": False}, turn("gpt", "a")]
    system = [{**turn("system", "s"), "weight": 1}, *harmless]
    rows = [text_row(conversations=t) for t in (said, harmless, system)]
    _, report = inspect(
        write(tmp_path, rows), tmp_path, name="x", policies=Policies(on_bad_row="drop")
    )
    assert report.problems["mark of what is learnt"].rows == [0, 2]


def test_harmless_fields_stay_harmless(tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "loss": 0.83, "score": 3, "label": 4, "chosen": True, "masks": "none", "tools": [],
        "rejected": None, "width": 640, "height": 480, "source": "x", "model": "gpt-4",
        "objects": {"bbox": [[1, 2, 3, 4]]}, "weight": "3 kg", "kto_tag": True,
    }  # fmt: skip
    rows = [text_row(**{key: value}) for key, value in more.items()]
    dataset = read(write(tmp_path, rows), tmp_path, name="x")
    assert not dataset.dropped


def test_a_row_without_an_answer_to_learn_has_none(tmp_path: Path) -> None:
    rows = [text_row(conversations=[turn("human", "q"), {**turn("gpt", "a"), "loss": False}])]
    (example,) = read(write(tmp_path, rows), tmp_path, name="x").examples
    assert not has_answer(example)


def test_only_data_with_marks_gets_another_key(tmp_path: Path) -> None:
    def config(rows: list[Any], **more: Any) -> dict[str, Any]:
        return dict(LlavaJson(str(write(tmp_path, rows)), str(tmp_path), **more).step().config)

    assert "reader" not in config([talk(), text_row(score=1)])
    assert config([talk(loss=False)])["reader"] == READER
    assert config([{**talk(), "videos": ["a.mp4"]}])["reader"] == READER
    tagged = [text_row(conversations=[turn("human", "<video>?"), turn("gpt", "a")])]
    assert config(tagged)["reader"] == READER
    assert "reader" not in config(tagged, on_media_tag="text"), "as it always was"
