"""The page of ``python -m coincide.influence``, its table for a terminal, and what they show."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coincide.models.template import IMAGE
from coincide.report.pictures import thumbnail, training_picture
from coincide.schema import Example
from coincide.terminal.inert import printable

if TYPE_CHECKING:
    from PIL import Image

SIDE = 200
"""Pixels of a picture on the page, at most."""


@dataclass(frozen=True)
class GradientStore:
    """An artifact of the signal ``gradients``."""

    folder: Path
    warmup: Path
    """The artifact of its adapters."""
    config: Mapping[str, Any]


@dataclass(frozen=True)
class AskedSample:
    """One document of a benchmark as the run was asked it."""

    benchmark: str
    document: int
    record: Mapping[str, Any]
    pictures: Sequence[Image.Image]


@dataclass(frozen=True)
class Pulled:
    """A training row and its cosine to the sample."""

    example: Example
    cosine: float


@dataclass(frozen=True)
class Influence:
    """What the rows of a subset did to a sample."""

    sample: AskedSample
    store: GradientStore
    up: Sequence[Pulled]
    """Rows of the largest cosines, all above 0, the largest first."""
    down: Sequence[Pulled]
    """Rows of the smallest cosines, all below 0, the smallest first."""
    rows: int
    """Of the subset, with a gradient."""
    above: int
    """Of these: rows with a cosine above 0."""
    below: int
    root: Path | None
    """The folder of the training pictures, if it is on this machine."""

    @property
    def counts(self) -> str:
        """In words."""
        return (
            f"Of the {self.rows:,} rows of the subset with a gradient {self.above:,} have a cosine "
            f"above 0 and {self.below:,} below."
        )


STYLE = """body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;
color:#1d1d1f;background:#fff}h1{font-size:1.3rem}h2{font-size:1.05rem;margin-top:2rem}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(14rem,1fr));gap:1rem}
figure{margin:0;padding:.75rem;border:1px solid #d2d2d7;border-radius:8px}
img{width:min(100%,9rem);image-rendering:auto;border-radius:4px}figcaption{margin-top:.5rem}
.cosine{font-variant-numeric:tabular-nums;font-weight:600}.about{color:#555;font-size:.9em}
@media(prefers-color-scheme:dark){body{color:#eee;background:#1c1c1e}figure{border-color:#444}
.about{color:#aaa}}"""


def page(found: Influence, run: str) -> str:
    """The page: the sample, and the rows with their pictures."""
    sample, record = found.sample, found.sample.record
    title = f"{sample.benchmark}:{sample.document}"
    asked = _figure(
        sample.pictures,
        f"<b>{_text(record.get('question'))}</b><br>target: {_text(record['target'])}<br>"
        f"answer: {_text(record.get('answer')) or '(empty)'}, score {_text(record.get('score'))}",
    )
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'>",
        f"<title>{_text(title)}</title><style>{STYLE}</style>",
        f"<h1>What pulled on {_text(title)}</h1><p class=about>{_text(run)}; gradients "
        f"{_text(found.store.folder.name)}. {found.counts}</p><div class=grid>{asked}</div>",
    ]
    heads = (("Most up: their steps lower its loss", found.up), ("Most down", found.down))
    for head, rows in heads:
        shown = "".join(_row(each, found.root) for each in rows) or "<p>None.</p>"
        parts.append(f"<h2>{head}</h2><div class=grid>{shown}</div>")
    return "\n".join(parts) + "\n"


def _row(each: Pulled, root: Path | None) -> str:
    example = each.example
    named = example.images if root is not None else ()
    pictures = [training_picture(root, name) for name in named if root is not None]
    said = [turn.text.replace(IMAGE, "").strip() for turn in example.turns]
    turns = "<br>".join(_text(text) for text in said[:4])
    about = f"row {example.row}, {_text(example.source)}, id {_text(example.id)}"
    return _figure(
        [picture for picture in pictures if picture is not None],
        f"<span class=cosine>{each.cosine:+.3f}</span> {turns}<br><span class=about>{about}</span>",
    )


def _figure(pictures: Sequence[Image.Image], caption: str) -> str:
    shown = "".join(f"<img alt='' src='{thumbnail(each, SIDE)}'>" for each in pictures)
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"


def _text(value: Any) -> str:
    text = str(printable("" if value is None else value))
    return html.escape(text if len(text) <= 400 else f"{text[:400]}…")


def table(found: Influence) -> Any:
    """The rows for a terminal."""
    from rich.table import Table
    from rich.text import Text

    rows = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("cosine", "row", "source", "question", "answer", "picture"):
        rows.add_column(name, justify="right" if name in ("cosine", "row") else "left")
    for each in (*found.up, *found.down):
        said = [turn.text.replace(IMAGE, "").strip() for turn in each.example.turns]
        cells = (
            f"{each.cosine:+.3f}", str(each.example.row), each.example.source,
            *(f"{text:.60}" for text in said[:2]), ", ".join(each.example.images),
        )  # fmt: skip
        rows.add_row(*(Text(str(printable(cell))) for cell in cells))
    return rows
