"""Subsets of three datasets in every form, for ``scripts/clients.sh``; run in the product's own
environment: ``python scripts/clients/prepare.py FOLDER``.

Writes ``FOLDER/<data>/<form>/x.json`` with what stands beside it, ``FOLDER/<data>/expected.json``
(each row as the product trains on it, pictures absolute) and ``FOLDER/model``, a LLaVA of 60,000
parameters with LLaVA-1.5's chat template.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from coincide import export  # noqa: E402
from coincide.data.exports import FORMS, ExportRow, read_rows  # noqa: E402
from tests.mini import llava665k, odd  # noqa: E402
from tests.tiny_llava import make_tiny_llava  # noqa: E402

TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ part['text'] + ' ' }}{% endgeneration %}"
    "{% else %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
TINY = "reference=tiny clip=tiny target=tiny train=demo eval=demo health.invalid_rows=1".split()
WORDS = {
    "demo": ["data=demo", "method=random", "budget=0.05"],
    "odd": ["data=llava_json", "data.name=odd", "method=full", "data.annotations=odd/odd.json",
            "data.images=odd", "data.on_media_tag=text", *TINY],
    "mini": ["data=llava", "data.expect=any", "data.on_missing_image=drop",
             "data.on_corrupt_image=drop", "method=full", *TINY],
}  # fmt: skip


def main(folder: Path) -> None:
    """Make all of it below ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    llava665k.make(folder / "data" / "llava")
    odd.make(folder / "odd")
    for name, words in WORDS.items():
        _select(folder, name, words)
    _model(folder)


def _select(folder: Path, name: str, words: list[str]) -> None:
    command = [sys.executable, str(ROOT / "run.py"), *words, "stages=[select]",
               f"paths.store=store-{name}"]  # fmt: skip
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (subset,) = (folder / f"store-{name}" / "subset").glob("*-*")
    roots = {"odd": folder / "odd", "mini": folder / "data" / "llava"}
    data = next((folder / f"store-{name}" / "data").glob("*-*"))
    root = roots.get(name, data / "images").absolute()
    for form in (*FORMS, "ids", "npy", "table"):
        out = folder / "forms" / name / form / "x.json"
        words = [str(subset), "--as", form, "--out", str(out), "--image-root", str(root)]
        if export.main(words) and form != "ids":
            raise SystemExit(f"{name} cannot be exported as {form}.")
    expected = [_expected(row, root) for row in read_rows(subset / "subset.json")]
    (folder / "forms" / name / "expected.json").write_text(json.dumps(expected))
    (folder / "forms" / name / "root").write_text(str(root))


def _expected(row: ExportRow, root: Path) -> dict[str, Any]:
    return {
        "id": row.id,
        "system": row.system,
        "turns": [[turn.role, turn.text, turn.learn] for turn in row.turns],
        "images": [str(root / name) for name in row.images],
    }


def _model(folder: Path) -> None:
    from transformers import AutoProcessor

    place = make_tiny_llava(folder)
    processor = AutoProcessor.from_pretrained(place)
    processor.chat_template = TEMPLATE
    processor.save_pretrained(place)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
