"""Write docs/METHODS.md from the method files and their YAMLs (`make docs`)."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import run as program  # noqa: E402
from coincide.report.published import TABLES, published  # noqa: E402
from coincide.schema import (  # noqa: E402
    AdaptedSignal,
    Clustering,
    Need,
    Signal,
    SubsetOf,
    Targets,
    TunedSignal,
    WarmUp,
)

FILES_OF = {"from_file": ("path",), "mmssr": ("scores",)}
"""Method -> fields that name a file, which must be there."""
MODEL_SIZES = {
    "llava_1_5_7b": "7B",
    "llava_1_5_13b": "13B",
    "llava_onevision_7b": "LLaVA-OneVision",
}
OPENING = """# Selection methods

Made from the method files by `make docs`; change them, not this page. `python run.py method=NAME`
runs one; its settings are overridden as `method.KEY=VALUE`. Signals that several methods of a sweep
need come out of one pass over the data by each model.

Rel. (%) is as published, on LLaVA-1.5 of the size named, recomputed from a row's columns where they
are known; the files are in `coincide/assets/published`. Each column is a table of its own:

{sources}

Independent studies disagree with the first by several points, in both directions; each method
names what they found.
"""


def page() -> str:
    """The whole page."""
    methods = {path.stem: _method(path.stem) for path in _files()}
    rel = {name: {row.method: row.rel for row in published(name)} for name in TABLES}
    heads = [_head(name) for name in TABLES]
    said = "\n".join(f"- {h}: {TABLES[n].source}." for n, h in zip(TABLES, heads, strict=True))
    lines = [OPENING.format(sources=said), _row(["method", "what it does", "needs", *heads])]
    lines.append(_row(["---"] * 3 + ["--:"] * len(heads)))
    for name, method in methods.items():
        numbers = [f"{rel[t][name]:.1f}" if name in rel[t] else "" for t in TABLES]
        lines.append(_row([f"[{name}](#{name})", _said(method)[0], _needs(method), *numbers]))
    for name, method in methods.items():
        lines += ["", *_section(name, method)]
    return "\n".join(lines) + "\n"


def _head(table: str) -> str:
    of = TABLES[table]
    return f"{of.data}, {100 * of.budget:g} %, {MODEL_SIZES[of.target]}"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _files() -> list[Path]:
    return sorted((program.CONF / "method").glob("*.yaml"))


def _method(name: str) -> Any:
    """The method as its YAML makes it for the demo."""
    given = [f"method.{field}={__file__}" for field in FILES_OF.get(name, ())]
    with hydra.initialize_config_dir(str(program.CONF), version_base="1.3"):
        cfg = program.compose_run([f"method={name}", *given])
    return program.build(cfg, "method")


def _said(method: Any) -> list[str]:
    """The paragraphs of the module's docstring, as Markdown."""
    text = inspect.getdoc(importlib.import_module(type(method).__module__)) or ""
    return re.sub(r"``(.+?)``", r"`\1`", text, flags=re.S).split("\n\n")


def _needs(method: Any) -> str:
    """The signals and what is made of them, each once."""
    return ", ".join(dict.fromkeys(_name(need) for need in method.needs())) or "nothing"


def _name(need: Need) -> str:
    if isinstance(need, AdaptedSignal):
        return f"`{need.name}` after a warm-up"
    if isinstance(need, Signal):
        return f"`{need.name}`"
    if isinstance(need, WarmUp):
        return "a warm-up"
    if isinstance(need, SubsetOf):
        return f"the rows of `{need.method.name}`"
    if isinstance(need, TunedSignal) and isinstance(need.signal, AdaptedSignal):
        return f"`{need.signal.name}` of a part, after a warm-up"
    if isinstance(need, TunedSignal):
        return f"`{need.signal.name}` after training on a part"
    if isinstance(need, Targets):
        return f"`{need.signal.name}` of target rows"
    return f"k-means of `{need.signal.name}`" if isinstance(need, Clustering) else "stage 1"


def _section(name: str, method: Any) -> Iterator[str]:
    first, *rest = _said(method)
    yield f"## {name}"
    yield ""
    yield from (f"{paragraph}\n" for paragraph in (first, *rest))
    yield f"Code: `{type(method).__module__.replace('.', '/')}.py`. Settings:"
    yield ""
    yield "```yaml"
    yield (program.CONF / "method" / f"{name}.yaml").read_text(encoding="utf-8").rstrip()
    yield "```"


def main() -> None:
    """Write the page."""
    (ROOT / "docs" / "METHODS.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
