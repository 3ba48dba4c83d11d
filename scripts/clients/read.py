"""What a trainer makes of the exported forms: ``python read.py READER FOLDER``, in its environment.

Reads ``FOLDER/forms/<data>/<form>/x.json`` as the trainer itself does (its loader, its template or
collator, the model in ``FOLDER/model``) and writes ``FOLDER/<reader>.json``: for each data and form
how many rows came through, and of how many pictures, roles with texts, and what is learnt are as
the product has them. Nothing of the product is imported.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", USE_HF="1")
FORMS = "llava llamafactory sharegpt messages swift trl axolotl parts ids".split()
IMAGE = "<image>"
DEFAULT = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)
"""LLaMA-Factory's own system prompt of the template llava, where a row has none."""


class Sample:
    """One row as a trainer has it before the model."""

    def __init__(self, images: Any, seen: str, learnt: str) -> None:
        self.images = images
        """Absolute paths, or pixel values."""
        self.seen = heard(seen)
        """The whole, squeezed."""
        self.learnt = learnt
        """The text under loss."""


def squeezed(text: str) -> str:
    """``text`` without pictures and white space: templates differ in both."""
    return re.sub(r"\s+", "", text.replace(IMAGE, ""))


def heard(text: str) -> str:
    """What a template wrote, without its marks and its own system prompt, squeezed."""
    return squeezed(re.sub("</?s>|<pad>", "", text)).removeprefix(squeezed(DEFAULT))


def said(row: dict[str, Any]) -> str:
    """The whole conversation as a template writes it, squeezed."""
    names = {"human": "USER:", "gpt": "ASSISTANT:"}
    texts = [row["system"] or ""] + [names[role] + text for role, text, _ in row["turns"]]
    return squeezed("".join(texts))


def compare(row: dict[str, Any], sample: Sample, pixels: Callable[[list[str]], Any]) -> list[str]:
    """What of pictures, roles and learning is not as the product has it."""
    wrong = []
    same = (
        [str(Path(p).resolve()) for p in row["images"]] == sample.images
        if isinstance(sample.images, list)
        else pixels(row["images"], sample.images)
    )
    if not same:
        wrong.append("pictures")
    if sample.seen != said(row):
        wrong.append("roles")
    answers = [text for role, text, learn in row["turns"] if role == "gpt" and learn]
    under_loss = squeezed(sample.learnt.replace("</s>", "").replace("<s>", ""))
    if under_loss != squeezed("".join(answers)):
        wrong.append("all learnt" if "USER:" in sample.learnt else "other learnt")
    return wrong


def same_pixels(processor: Any) -> Callable[[list[str], Any], bool]:
    """Whether pixel values are those of the pictures at these paths, in this order."""
    import torch
    from PIL import Image, ImageOps

    decoders = (
        lambda path: Image.open(path).convert("RGB"),
        lambda path: ImageOps.exif_transpose(Image.open(path)).convert("RGB"),
    )

    def same(paths: list[str], found: Any) -> bool:
        if not paths:
            return found is None
        for decode in decoders:
            pictures = list(map(decode, paths))
            wanted = processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
            if found is not None and found.shape == wanted.shape and torch.allclose(found, wanted):
                return True
        return False

    return same


# --- the four readers: each yields samples, or the reason why a row did not come through -------


def llamafactory(path: Path, root: str, model: Path) -> Iterator[Sample | str]:
    """LLaMA-Factory: its loader, its template ``llava``, its supervised processor."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer, mm_plugin
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    script = path.parent / "x.llamafactory.sh"
    renamed = script.exists() and "VIDEO_PLACEHOLDER" in script.read_text()
    mm_plugin.VIDEO_PLACEHOLDER = "<no video>" if renamed else "<video>"
    mm_plugin.AUDIO_PLACEHOLDER = "<no audio>" if renamed else "<audio>"
    info = path.parent / "dataset_info.json"
    if not info.exists():  # a form that is not made for it, declared as its pages say
        info.write_text(json.dumps({"x": _declared(path)}))
    arguments = {
        "model_name_or_path": str(model), "template": "llava", "stage": "sft", "do_train": True,
        "finetuning_type": "lora", "dataset": "x", "dataset_dir": str(path.parent),
        "media_dir": root, "cutoff_len": 100_000, "output_dir": str(path.parent / "out"),
        "overwrite_cache": True, "preprocessing_num_workers": 1,
    }  # fmt: skip
    model_args, data_args, training_args, _, _ = get_train_args(arguments)
    tools = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(tools["tokenizer"], data_args)
    data = get_dataset(template, model_args, data_args, training_args, stage="sft", **tools)
    tokenizer = tools["tokenizer"]
    for row in data["train_dataset"]:
        kept = [token for token in row["labels"] if token != -100]
        images = [str(Path(image).resolve()) for image in row["images"] or ()]
        yield Sample(images, tokenizer.decode(row["input_ids"]), tokenizer.decode(kept))


def _declared(path: Path) -> dict[str, Any]:
    first = json.loads(path.read_text())[0]
    columns = {"images": "images" if path.parent.name != "llava" else "image"}
    if isinstance(first, dict) and "messages" in first:
        tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user",
                "assistant_tag": "assistant", "system_tag": "system"}  # fmt: skip
        return {"file_name": path.name, "formatting": "sharegpt", "tags": tags,
                "columns": {"messages": "messages", **columns}}  # fmt: skip
    return {"file_name": path.name, "formatting": "sharegpt",
            "columns": {"messages": "conversations", **columns}}  # fmt: skip


def swift(path: Path, root: str, model: Path) -> Iterator[Sample | str]:
    """ms-swift: its loader, its preprocessor, its template for LLaVA-1.5."""
    os.environ["ROOT_IMAGE_DIR"] = root
    from swift import get_processor, get_template
    from swift.dataset import load_dataset

    processor = get_processor(str(model), model_type="llava1_5_hf")
    template = get_template(processor, max_length=100_000)
    template.set_mode("train")
    data, _ = load_dataset([str(path)], shuffle=False, load_from_cache_file=False)
    for row in data:
        try:
            done = template.encode(dict(row))
        except Exception as error:
            yield f"{type(error).__name__}: {error}"
            continue
        kept = [token for token in done["labels"] if token != -100]
        tokenizer = template.tokenizer
        yield Sample(
            done.get("pixel_values"), tokenizer.decode(done["input_ids"]), tokenizer.decode(kept)
        )


def trl(path: Path, root: str, model: Path) -> Iterator[Sample | str]:
    """TRL: its SFTTrainer over the loaded data, its collator for vision-language models."""
    os.chdir(root)
    from datasets import load_dataset
    from transformers import AutoProcessor
    from trl import SFTConfig, SFTTrainer

    data = load_dataset("json", data_files=str(path), split="train")
    processor = AutoProcessor.from_pretrained(model)
    settings = SFTConfig(
        output_dir=str(path.parent / "out"), max_length=None, bf16=False, report_to=[],
        assistant_only_loss="generation %}" in (processor.chat_template or ""), use_cpu=True,
    )  # fmt: skip
    trainer = SFTTrainer(str(model), args=settings, train_dataset=data)
    for row in trainer.train_dataset:
        yield _collated(trainer.data_collator, row, processor.tokenizer)


def axolotl(path: Path, root: str, model: Path) -> Iterator[Sample | str]:
    """axolotl: its processing strategy and its collator for multi-modal chats."""
    os.chdir(root)
    from axolotl.processing_strategies import get_processing_strategy
    from axolotl.utils.collators.mm_chat import MultiModalChatDataCollator
    from datasets import load_dataset
    from transformers import AutoProcessor

    data = load_dataset("json", data_files=str(path), split="train")
    processor = AutoProcessor.from_pretrained(model)
    strategy = get_processing_strategy(processor, processor.chat_template, "llava")
    collator = MultiModalChatDataCollator(processor.tokenizer, strategy)
    for row in data:
        yield _collated(collator, row, processor.tokenizer)


def _collated(collator: Any, row: dict[str, Any], tokenizer: Any) -> Sample | str:
    try:
        batch = collator([dict(row)])
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    tokens, labels = batch["input_ids"][0], batch["labels"][0]
    kept = tokens[labels != -100]
    pixels = batch.get("pixel_values")
    return Sample(pixels, tokenizer.decode(tokens), tokenizer.decode(kept))


READERS = {"llamafactory": llamafactory, "swift": swift, "trl": trl, "axolotl": axolotl}
PACKAGES = {"llamafactory": "llamafactory", "swift": "ms-swift", "trl": "trl", "axolotl": "axolotl"}


def examine(reader: str, folder: Path, data: str, form: str) -> dict[str, Any]:
    """How one form of one dataset comes through."""
    from transformers import AutoProcessor

    base = folder / "forms" / data
    expected = json.loads((base / "expected.json").read_text())
    path = base / form / "x.json"
    if not path.exists():
        return {"error": "not exported"}
    model = folder / "model"
    same = same_pixels(AutoProcessor.from_pretrained(model))
    unlearnt = [row for row in expected if not all(turn[2] for turn in row["turns"])]
    wrong: dict[str, int] = {}
    errors: dict[str, int] = {}
    read, left = 0, list(expected)
    try:
        for sample in READERS[reader](path, (base / "root").read_text(), model):
            if isinstance(sample, str):
                first = sample.split("\n")[0][:160]
                errors[first] = errors.get(first, 0) + 1
                if left:
                    left.pop(0)
                continue
            read += 1
            row = _match(left, sample)
            for what in ["rows"] if row is None else compare(row, sample, same):
                wrong[what] = wrong.get(what, 0) + 1
    except (Exception, SystemExit) as error:
        text = str(error).strip().split("\n")
        return {"error": f"{type(error).__name__}: {text[0][:200]}"}
    return {"rows": len(expected), "read": read, "wrong": wrong, "errors": errors,
            "marked": len(unlearnt)}  # fmt: skip


def _match(left: list[dict[str, Any]], sample: Sample) -> dict[str, Any] | None:
    """The next expected row that says what the sample does; else the next at all."""
    for number, row in enumerate(left):
        if said(row) == sample.seen:
            del left[: number + 1]
            return row
    return left.pop(0) if left else None


def main(reader: str, folder: Path) -> None:
    """All data in all forms; the answer is written after each, and a run goes on after the last."""
    out = folder / f"{reader}.json"
    packages = (PACKAGES[reader], "transformers", "datasets", "torch")
    versions = {name: version(name) for name in packages}
    found: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}
    if found.get("versions") != versions:
        found = {"versions": versions, "forms": {}}
    for data in sorted(path.name for path in (folder / "forms").iterdir()):
        for form in FORMS:
            if f"{data} {form}" in found["forms"]:
                continue
            result = examine(reader, folder, data, form)
            found["forms"][f"{data} {form}"] = result
            print(reader, data, form, json.dumps(result), flush=True)
            out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).resolve())
