"""docs/CLIENTS.md from what the readers found: ``python table.py FOLDER docs/CLIENTS.md``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TRAINERS = {
    "llamafactory": "LLaMA-Factory",
    "swift": "ms-swift",
    "trl": "TRL",
    "axolotl": "axolotl",
}
FORMS = "llamafactory swift trl axolotl parts messages sharegpt llava ids".split()
DATA = {
    "demo": "200 rows of the demo",
    "odd": "rows with what real files have at their edges",
    "mini": "the miniature of LLaVA-665K",
}
HEAD = """# Subsets in other trainers

    python -m coincide.export SUBSET --as FORM --out x.json --image-root FOLDER

SUBSET is a folder of `store/subset` or a result of the ledger. The forms `llamafactory`, `swift`,
`trl` and `axolotl` are each for the trainer of that name: beside the data stands what it needs
(an entry in `dataset_info.json` and settings with `media_dir`; `ROOT_IMAGE_DIR`; a short script;
settings), and three lines that start training are printed and kept in `x.FORM.sh`. They name
`llava-hf/llava-1.5-7b-hf`; put your own model there. `parts` is the form that most read alike.
`--images relative | absolute | copy` says how pictures are named; `copy` lays them beside the file,
and is what happens where pictures lie inside Parquet shards. `parquet` is one file with the
subset's pictures inside. `ids`, `npy` and `table` name rows. `method=from_file
method.path=x.json` reads every form back but `parquet`.

Each row is said as the product trains on it: an opening answer that it leaves out is left out, ids
are strings and absent where a row has none, other fields stay in `llava` alone. System prompts
stay, though the product puts its own in their place. An answer marked as not to be learnt keeps
`"loss": false` in `swift`, `messages` and `parts`; `llava` keeps the mark that the data has; the
other forms have no word for it, and the export says how many rows that is. It also counts rows that
a reader takes otherwise (`<video>` as a word, `<image>` in a system prompt, a picture in an answer,
marks of a chat template, a picture inside a line of `parts`), and pictures that are not there.

## What each trainer makes of each form

Made by `scripts/clients.sh`: each trainer's own loader with its own template or collator, a LLaVA
of 60,000 parameters with LLaVA-1.5's chat template, on {data}. A row is right when its pictures (by
pixel), its roles with their texts, and the text under loss are those of the product. Then the
lines of `x.FORM.sh` were run on the odd rows, on a CPU: that small model in place of the one they
name, and what a CPU needs (two steps, float32; `swift` the model's type, which it knows of a
published one).
"""
TAIL = """
"learn all": loss is on questions as well. In TRL that depends on the chat template: with
generation marks, which the model used here has, the script of `--as trl` sets
`assistant_only_loss`. axolotl does not know where LLaVA-1.5's template puts answers, which the
export says; its setting `role_boundaries` would tell it, but stops version 0.19.0 with a TypeError
(given to its collator in Python, the same boundaries put loss on answers alone).
"learn other text", of the data with odd rows: the row with an answer that is marked as not to be
learnt, which only ms-swift honours. "with other pictures or none": the pixels are not those of the
row's pictures. A few rows of the miniature are so where a trainer decodes by its own rule (TRL:
an animated GIF as all its frames, 16-bit grey); where it is every pictured row, the trainer does
not find the pictures of that form. "not tried": the reader was stopped before.
Why a form that is made for another trainer is refused: LLaMA-Factory takes contents as texts with
`<image>` and the word `<video>` for a video (the lines of its own form rename that mark); `llava`
has one picture as a text and several as a list, which one column cannot hold. ms-swift takes a
system prompt as text alone, and no picture under `path`. TRL takes `role` and `content` alone, and
pictures as parts beside a column `images`. axolotl takes contents as parts alone (`StopIteration`,
`IndexError`), and pictures in them. `ids` names rows and holds none.
`data=messages` reads all forms that hold rows, and `make test` compares each, row by row, through
`datasets` alone.
"""
WORDS = {
    "pictures": "with other pictures or none",
    "roles": "with other texts", "all learnt": "learn all",
    "other learnt": "learn other text", "rows": "rows that are not ours",
}  # fmt: skip


def cell(found: dict[str, Any]) -> str:
    """One result in words."""
    if found.get("error") == "not exported":
        return "not exported: a row has no id"
    if "error" in found:
        return f"**refused**: {shown(found['error'])}"
    wrong = [f"{count} {WORDS[what]}" for what, count in found["wrong"].items()]
    stopped = [f"{count} x {shown(why)}" for why, count in found["errors"].items()][:2]
    text = f"{found['read']} of {found['rows']}"
    if not wrong and not stopped:
        return f"{text}, all right"
    return "; ".join([text, *wrong, *stopped])


def started(path: Path) -> str:
    """What came of the lines that start training."""
    if not path.is_file():
        return "Its lines were not started.\n"
    found = json.loads(path.read_text())
    if found["status"] == 0 and found["losses"]:
        return f"Its lines start training; losses on the odd rows: {', '.join(found['losses'])}.\n"
    why = shown(found["error"]) or "no loss was printed"
    return f"Its lines do not train here (status {found['status']}): {why}.\n"


def shown(error: str) -> str:
    """The start of an error, for a cell of a table."""
    text = error.replace("|", "/").replace("<", "&lt;").replace("`", "'")
    return text if len(text) <= 90 else f"{text[:87]}..."


def main(folder: Path, out: Path) -> None:
    """Write the page."""
    sections = [HEAD.format(data=", ".join(DATA.values()))]
    for name, title in TRAINERS.items():
        path = folder / f"{name}.json"
        if not path.is_file():
            sections.append(f"### {title}\n\nCould not be installed where this was made.\n")
            continue
        found = json.loads(path.read_text())
        versions = ", ".join(f"{k} {v}" for k, v in found["versions"].items())
        start = started(folder / f"{name}-start.json")
        lines = [f"### {title}\n", f"{versions}\n", start]
        lines += ["| form | " + " | ".join(DATA) + " |", "| --- |" + " --- |" * len(DATA)]
        for form in FORMS:
            cells = [found["forms"].get(f"{data} {form}") for data in DATA]
            words = ["not tried" if c is None else cell(c) for c in cells]
            lines.append(f"| `{form}` | " + " | ".join(words) + " |")
        sections.append("\n".join(lines) + "\n")
    out.write_text("\n".join(sections) + TAIL, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
