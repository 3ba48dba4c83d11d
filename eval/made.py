"""Small synthetic datasets with the columns and types of the hub's, in the layout of a mirror.

To run lmms-eval's tasks without the hub, with known right answers: for ``eval.replies`` and tests.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pictures

ORGANISATION = "lmms-lab-encoder"
SplitRows = list[dict[str, Any]]
MadeDocument = Mapping[str, Any]
TEXT, WHOLE = Value("string"), Value("int64")


@dataclass(frozen=True)
class DatasetSplit:
    """One split of one configuration: columns with their types, and rows."""

    split: str
    columns: dict[str, Any]
    rows: SplitRows
    config: str = "default"


def picture(seed: int) -> Pictures.Image:
    """A noise picture of 24 x 20 pixels, the same for the same seed."""
    pixels = np.random.default_rng(seed).integers(0, 255, (20, 24, 3), dtype=np.uint8)
    return Pictures.fromarray(pixels)


def write(root: Path, name: str, tables: list[DatasetSplit]) -> Path:
    """Write ``root/lmms-lab-encoder/<name>``: parquet files and the card that declares them.

    Returns the folder.
    """
    folder = root / ORGANISATION / name
    card = ["---", "configs:"]
    for config in dict.fromkeys(table.config for table in tables):
        card += [f"- config_name: {config}", "  data_files:"]
        for table in tables:
            if table.config == config:
                file = f"{config}/{table.split}-00000-of-00001.parquet"
                (folder / config).mkdir(parents=True, exist_ok=True)
                columns = {c: [row.get(c) for row in table.rows] for c in table.columns}
                Dataset.from_dict(columns, Features(table.columns)).to_parquet(folder / file)
                card += [f"  - split: {table.split}", f"    path: {config}/{table.split}-*"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))
    return folder


def mirror(root: Path) -> Path:
    """Write all datasets of this module below ``root``; returns ``root``."""
    for name, tables in DATASETS.items():
        write(root, name, tables())
    return root


# --- the datasets: what the hub's cards declare -------------------------------------------------

ANSWERS = ["red", "two dogs", "Paris", "12", "left", "umbrella", "4.5", "a cat", "wood", "north"]


def ten(answer: str) -> list[str]:
    """Ten annotators' answers, nine of them ``answer``: its VQA accuracy is 1."""
    return [answer] * 9 + ["something else"]


def vqav2() -> list[DatasetSplit]:
    """Open questions with ten answers each."""
    columns = {
        "question_type": TEXT, "multiple_choice_answer": TEXT,
        "answers": List({"answer": TEXT, "answer_confidence": TEXT, "answer_id": WHOLE}),
        "image_id": WHOLE, "answer_type": TEXT, "question_id": WHOLE, "question": TEXT,
        "image": Image(),
    }  # fmt: skip
    rows = [
        {"question_type": "what", "multiple_choice_answer": answer,
         "answers": [{"answer": a, "answer_confidence": "yes", "answer_id": j + 1}
                     for j, a in enumerate(ten(answer))],
         "image_id": i, "answer_type": "other", "question_id": 1000 + i,
         "question": f"What is thing {i}?", "image": picture(i)}
        for i, answer in enumerate(ANSWERS)
    ]  # fmt: skip
    return [DatasetSplit("validation", columns, rows)]


def gqa() -> list[DatasetSplit]:
    """Open questions, and the pictures in a table of their own."""
    columns = {
        "id": TEXT, "imageId": TEXT, "question": TEXT, "isBalanced": Value("bool"),
        "groups": {"global": TEXT, "local": TEXT}, "entailed": TEXT, "equivalent": TEXT,
        "types": {"structural": TEXT, "semantic": TEXT, "detailed": TEXT},
        "semantic": List({"operation": TEXT, "argument": TEXT,
                          "dependencies": List(Value("int32"))}),
        "answer": TEXT, "fullAnswer": TEXT, "semanticStr": TEXT,
    }  # fmt: skip
    rows = [
        {"id": f"2{i:06}", "imageId": f"n{i % 3}", "question": f"Which is thing {i}?",
         "isBalanced": True, "groups": {"global": "g", "local": "l"}, "entailed": "",
         "equivalent": "", "types": {"structural": "query", "semantic": "attr", "detailed": "d"},
         "semantic": [{"operation": "select", "argument": "x", "dependencies": [0]}],
         "answer": answer, "fullAnswer": f"It is {answer}.", "semanticStr": "select"}
        for i, answer in enumerate(ANSWERS)
    ]  # fmt: skip
    pictures = [{"id": f"n{i}", "image": picture(i)} for i in range(3)]
    return [
        DatasetSplit("testdev", columns, rows, "testdev_balanced_instructions"),
        DatasetSplit(
            "testdev", {"id": TEXT, "image": Image()}, pictures, "testdev_balanced_images"
        ),
    ]


def vizwiz() -> list[DatasetSplit]:
    """Open questions with ten answers each."""
    columns = {"question_id": TEXT, "image": Image(), "question": TEXT, "answers": List(TEXT),
               "category": TEXT}  # fmt: skip
    rows = [
        {"question_id": f"VizWiz_val_{i:08}.jpg", "image": picture(i),
         "question": f"What is on LABEL {i}?", "answers": ten(answer), "category": "other"}
        for i, answer in enumerate(ANSWERS)
    ]  # fmt: skip
    return [DatasetSplit("val", columns, rows), DatasetSplit("test", columns, rows[:1])]


def scienceqa() -> list[DatasetSplit]:
    """Questions with three choices, every other one with a hint."""
    columns = {
        "image": Image(), "question": TEXT, "choices": List(TEXT), "answer": Value("int8"),
        **dict.fromkeys(("hint", "task", "grade", "subject", "topic", "category", "skill",
                         "lecture", "solution"), TEXT),
    }  # fmt: skip
    rows = [
        {"image": picture(i), "question": f"Which {i}?", "choices": ["iron", "wood", "glass"],
         "answer": i % 3, "hint": "Look." if i % 2 else "", "task": "closed choice",
         "grade": "grade2", "subject": "natural science", "topic": "physics", "category": "m",
         "skill": "s", "lecture": "", "solution": ""}
        for i in range(10)
    ]  # fmt: skip
    return [DatasetSplit("test", columns, rows, "ScienceQA-IMG")]


def textvqa() -> list[DatasetSplit]:
    """Open questions with ten answers and OCR tokens."""
    columns = {
        "image_id": TEXT, "question_id": Value("int32"), "question": TEXT,
        "question_tokens": List(TEXT), "image": Image(), "image_width": Value("int32"),
        "image_height": Value("int32"), "flickr_original_url": TEXT, "flickr_300k_url": TEXT,
        "answers": List(TEXT), "image_classes": List(TEXT), "set_name": TEXT,
        "ocr_tokens": List(TEXT),
    }  # fmt: skip
    rows = [
        {"image_id": f"{i:016}", "question_id": 34602 + i, "question": f"what is sign {i}?",
         "question_tokens": ["what"], "image": picture(i), "image_width": 24, "image_height": 20,
         "flickr_original_url": "", "flickr_300k_url": "", "answers": ten(answer),
         "image_classes": ["Sign"], "set_name": "val", "ocr_tokens": ["NOKIA", f"N{i}"]}
        for i, answer in enumerate(ANSWERS)
    ]  # fmt: skip
    return [DatasetSplit("validation", columns, rows)]


def pope() -> list[DatasetSplit]:
    """Questions with the answers yes and no in turn, over the three categories."""
    columns = {"id": TEXT, "question_id": TEXT, "question": TEXT, "answer": TEXT,
               "image_source": TEXT, "image": Image(), "category": TEXT}  # fmt: skip
    rows = [
        {"id": str(i), "question_id": str(i // 3 + 1), "question": f"Is there a thing {i}?",
         "answer": "yes" if i % 2 else "no", "image_source": f"COCO_val2014_{i:012}",
         "image": picture(i), "category": ("random", "popular", "adversarial")[i % 3]}
        for i in range(12)
    ]  # fmt: skip
    return [DatasetSplit("test", columns, rows)]


def mme() -> list[DatasetSplit]:
    """Two questions about each picture, with answers yes and no, in three categories."""
    columns = {"question_id": TEXT, "image": Image(), "question": TEXT, "answer": TEXT,
               "category": TEXT}  # fmt: skip
    pictures = ["existence"] * 3 + ["OCR"] * 2 + ["code_reasoning"] * 2
    rows = [
        {"question_id": f"{category}/{i:04}.png", "image": picture(i),
         "question": f"Is it {answer}? Please answer yes or no.", "answer": answer,
         "category": category}
        for i, category in enumerate(pictures) for answer in ("Yes", "No")
    ]  # fmt: skip
    return [DatasetSplit("test", columns, rows)]


def mmbench() -> list[DatasetSplit]:
    """Four questions with their rotations, the same for English and Chinese."""
    columns = {
        "index": WHOLE, **dict.fromkeys(("question", "hint", "answer", "A", "B", "C", "D"), TEXT),
        "category": TEXT, "image": Image(),
        **dict.fromkeys(("source", "L2-category", "comment", "split"), TEXT),
    }  # fmt: skip
    choices = ["red", "green", "blue", "black"]
    rotations = [(0, 4), (1, 2), (2, 1), (3, 1)]
    rows = [
        {"index": turn * 1_000_000 + 7 + q, "question": f"Which colour is thing {q}?",
         "hint": "nan" if q % 2 else "Look closely.", "answer": "ABCD"[(q + turn) % 4],
         **{letter: choices[(j - turn) % 4] for j, letter in enumerate("ABCD")},
         "category": "attribute", "image": picture(q), "source": "s", "L2-category": "perception",
         "comment": "nan", "split": "dev"}
        for q, count in rotations for turn in range(count)
    ]  # fmt: skip
    return [DatasetSplit("dev", columns, rows, "en"), DatasetSplit("dev", columns, rows, "cn")]


def seedbench() -> list[DatasetSplit]:
    """Questions with four choices, every fourth about a video."""
    columns = {
        **dict.fromkeys(("answer", "choice_a", "choice_b", "choice_c", "choice_d", "data_id",
                         "data_type", "question", "question_id"), TEXT),
        "question_type_id": Value("int16"), "image": List(Image()), "segment": List(WHOLE),
    }  # fmt: skip
    rows = [
        {"answer": "ABCD"[i % 4], "choice_a": "one", "choice_b": "two", "choice_c": "three",
         "choice_d": "four", "data_id": str(i), "data_type": "video" if i % 4 == 3 else "image",
         "question": f"How many {i}?", "question_id": str(i), "question_type_id": 1,
         "image": [picture(i)] * (8 if i % 4 == 3 else 1), "segment": None}
        for i in range(8)
    ]  # fmt: skip
    return [DatasetSplit("test", columns, rows)]


def ai2d() -> list[DatasetSplit]:
    """Questions with four choices."""
    columns = {"question": TEXT, "options": List(TEXT), "answer": TEXT, "image": Image()}
    rows = [
        {"question": f"Which part {i}?", "options": ["leaf", "stem", "root", "seed"],
         "answer": str(i % 4), "image": picture(i)}
        for i in range(10)
    ]  # fmt: skip
    return [DatasetSplit("test", columns, rows)]


def chartqa() -> list[DatasetSplit]:
    """Questions whose answers are numbers, years and words."""
    columns = {"type": TEXT, "question": TEXT, "answer": TEXT, "image": Image()}
    answers = ["14", "2018", "Yes", "0.57", "Germany", "100", "8", "blue", "3.5", "No"]
    rows = [
        {"type": "augmented_test" if i % 2 else "human_test", "question": f"How many {i}?",
         "answer": answer, "image": picture(i)}
        for i, answer in enumerate(answers)
    ]  # fmt: skip
    return [DatasetSplit("test", columns, rows)]


def docvqa() -> list[DatasetSplit]:
    """Both configurations: documents and infographics."""
    documents = {
        "questionId": TEXT, "question": TEXT, "question_types": List(TEXT), "image": Image(),
        "docId": WHOLE, "ucsf_document_id": TEXT, "ucsf_document_page_no": TEXT,
        "answers": List(TEXT), "data_split": TEXT,
    }  # fmt: skip
    graphics = {
        "questionId": TEXT, "question": TEXT, "answers": List(TEXT), "answer_type": List(TEXT),
        "image": Image(), "image_url": TEXT, "operation/reasoning": List(TEXT), "ocr": TEXT,
        "data_split": TEXT,
    }  # fmt: skip
    rows = [
        {"questionId": str(i), "question": f"What is line {i}?", "question_types": ["form"],
         "image": picture(i), "docId": i, "ucsf_document_id": "x", "ucsf_document_page_no": "1",
         "answers": [answer, f"the {answer}"], "data_split": "val", "answer_type": ["span"],
         "image_url": "", "operation/reasoning": [], "ocr": ""}
        for i, answer in enumerate(ANSWERS)
    ]  # fmt: skip
    return [DatasetSplit("validation", documents, rows, "DocVQA"),
            DatasetSplit("validation", graphics, rows, "InfographicVQA")]  # fmt: skip


def realworldqa() -> list[DatasetSplit]:
    """Questions answered by a letter, and open ones."""
    columns = {"image": Image(), "image_path": TEXT, "question": TEXT, "answer": TEXT}
    answers = ["A", "B", "C", "2", "Downhill"] * 2
    rows = [
        {"image": picture(i), "image_path": f"{i}.webp", "answer": answer,
         "question": f"Where is {i}?\nA. left\nB. right\nC. ahead\nPlease answer directly with "
         "only the letter of the correct option and nothing else."}
        for i, answer in enumerate(answers)
    ]  # fmt: skip
    return [DatasetSplit("test", columns, rows)]


def mmmu() -> list[DatasetSplit]:
    """Questions with four choices and open numbers; in one an option is a picture."""
    columns = {
        **dict.fromkeys(("id", "question", "options", "explanation"), TEXT),
        **{f"image_{i}": Image() for i in range(1, 8)},
        **dict.fromkeys(("img_type", "answer", "topic_difficulty", "question_type", "subfield"),
                        TEXT),
    }  # fmt: skip

    def row(i: int) -> dict[str, Any]:
        choice = i % 3 != 2
        return {
            "id": f"validation_{('Art', 'Accounting')[i % 2]}_{i}",
            "question": "Look at <image 1> closely: what is it?",
            "options": "['iron', 'wood', '<image 2>', 'glass']" if choice else "[]",
            "explanation": "", "image_1": picture(i), "image_2": picture(50 + i),
            "img_type": "['Plots']", "answer": "ABCD"[i % 4] if choice else str(7 * i),
            "topic_difficulty": "Easy", "subfield": "x",
            "question_type": "multiple-choice" if choice else "open",
        }  # fmt: skip

    return [DatasetSplit("validation", columns, [row(i) for i in range(24)])]


def llava_w() -> list[DatasetSplit]:
    """Requests in three categories, for a judge."""
    columns = {"question_id": WHOLE, "question": TEXT, "image": Image(), "caption": TEXT,
               "gpt_answer": TEXT, "category": TEXT, "image_id": TEXT}  # fmt: skip
    rows = [
        {"question_id": i, "question": f"Describe {i}.", "image": picture(i), "caption": "A lake.",
         "gpt_answer": f"reference {i}", "category": ("conv", "detail", "complex")[i % 3],
         "image_id": f"{i:03}"}
        for i in range(6)
    ]  # fmt: skip
    return [DatasetSplit("train", columns, rows)]


def mmvet() -> list[DatasetSplit]:
    """Questions for a judge."""
    columns = {"question_id": TEXT, "image": Image(), "question": TEXT, "answer": TEXT,
               "image_source": TEXT, "capability": TEXT}  # fmt: skip
    rows = [
        {"question_id": f"v1_{i}", "image": picture(i), "question": f"What is x{i}?",
         "answer": f"-{i}<AND>{i}", "image_source": "s", "capability": ("rec", "ocr,math")[i % 2]}
        for i in range(5)
    ]  # fmt: skip
    return [DatasetSplit("test", columns, rows)]


DATASETS: dict[str, Callable[[], list[DatasetSplit]]] = {
    "VQAv2": vqav2, "GQA": gqa, "VizWiz-VQA": vizwiz, "ScienceQA": scienceqa, "textvqa": textvqa,
    "POPE": pope, "MME": mme, "MMBench": mmbench, "SEED-Bench": seedbench, "ai2d": ai2d,
    "ChartQA": chartqa, "DocVQA": docvqa, "RealWorldQA": realworldqa, "MMMU": mmmu,
    "llava-bench-in-the-wild": llava_w, "MMVet": mmvet,
}  # fmt: skip


# --- the truth, as a model would say it ---------------------------------------------------------


def right_answer(benchmark: str, doc: MadeDocument) -> str:
    """An answer that the benchmark counts as fully right."""
    match benchmark:
        case "vqav2":
            return str(doc["multiple_choice_answer"])
        case "vizwiz" | "textvqa" | "textvqa_no_ocr" | "docvqa" | "infovqa":
            return str(doc["answers"][0])
        case "scienceqa_img" | "ai2d":
            return "ABCDE"[int(doc["answer"])]
        case "llava_w" | "mmvet":
            return f"my answer {doc['question_id']}"
    return str(doc["answer"])


def option_text(benchmark: str, doc: MadeDocument) -> str:
    """The text of the right option; empty if the answer is no option's letter."""
    letter = right_answer(benchmark, doc)
    match benchmark:
        case "scienceqa_img":
            return str(doc["choices"][int(doc["answer"])])
        case "ai2d":
            return str(doc["options"][int(doc["answer"])])
        case "mmbench_en" | "mmbench_cn":
            return str(doc[letter])
        case "seed":
            return str(doc[f"choice_{letter.lower()}"])
        case "realworldqa":
            lines = dict(line.split(". ", 1) for line in doc["question"].splitlines()[1:4])
            return str(lines.get(letter, ""))
        case "mmmu" if doc["question_type"] == "multiple-choice":
            return str(ast.literal_eval(doc["options"])["ABCD".index(letter)])
    return ""


def sentence(benchmark: str, doc: MadeDocument) -> str:
    """The right answer within a sentence."""
    answer = right_answer(benchmark, doc)
    match benchmark:
        case "pope" | "mme":
            there = "there is" if answer.lower() == "yes" else "there is not"
            return f"{answer.capitalize()}, {there}."
    letter = option_text(benchmark, doc) or benchmark in ("scienceqa_img", "ai2d", "seed")
    return f"The answer is {answer}" if letter else f"It is {answer}."
