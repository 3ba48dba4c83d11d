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
from coincide.report.published import SOURCE, published  # noqa: E402
from coincide.schema import (  # noqa: E402
    Clustering,
    Need,
    Signal,
    SubsetOf,
    Targets,
    TunedSignal,
)

TABLES = {"7B": "llava665k_20pct_llava15_7b", "13B": "llava665k_20pct_llava15_13b"}
OPENING = """# Selection methods

Made from the method files by `make docs`; change them, not this page. `python run.py method=NAME`
runs one; its settings are overridden as `method.KEY=VALUE`. Signals that several methods of a sweep
need come out of one pass over the data by each model.

Rel. (%) is as published for 20 % of LLaVA-665K, finetuned on LLaVA-1.5 of that size, recomputed
from the columns. {source}. Independent studies disagree with
that ranking by several points, in both directions; each method names what they found.
"""


def page() -> str:
    """The whole page."""
    methods = {path.stem: _method(path.stem) for path in _files()}
    rel = {size: {row.method: row.rel for row in published(t)} for size, t in TABLES.items()}
    lines = [OPENING.format(source=SOURCE), "| method | what it does | needs | 7B | 13B |"]
    lines.append("| --- | --- | --- | --: | --: |")
    for name, method in methods.items():
        numbers = [f"{rel[s][name]:.1f}" if name in rel[s] else "" for s in TABLES]
        cells = [f"[{name}](#{name})", _said(method)[0], _needs(method), *numbers]
        lines.append("| " + " | ".join(cells) + " |")
    for name, method in methods.items():
        lines += ["", *_section(name, method)]
    return "\n".join(lines) + "\n"


def _files() -> list[Path]:
    return sorted((program.CONF / "method").glob("*.yaml"))


def _method(name: str) -> Any:
    """The method as its YAML makes it for the demo."""
    given = [f"method.path={__file__}"] if name == "from_file" else []
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
    if isinstance(need, Signal):
        return f"`{need.name}`"
    if isinstance(need, SubsetOf):
        return f"the rows of `{need.method.name}`"
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
