"""Write ``docs/MAP.md``: every tracked file with its first line (`make docs`)."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAD = """# Map: every file, and what it is for

Written by `make docs` from the first line of each file. What belongs together and why stands in
[ARCHITECTURE.md](ARCHITECTURE.md).
"""
SAID = {
    "Makefile": "make demo | test | check | lock",
    "pyproject.toml": "what the project imports, and the settings of its tools",
    "requirements.lock": "every package, resolved together",
    "README.md": "the front door",
    "docs/MAP.md": "this page",
    "CHANGELOG.md": "what changed",
    "LICENSE": "Apache-2.0",
    ".ci/run": "what CI runs",
    ".gitignore": "what a run leaves behind",
    ".pre-commit-config.yaml": "the checks before a commit",
}
FOLDED = {
    "coincide/assets/published": "tables that papers print, with their sources",
    "coincide/assets/tiny": "weights of the tiny models, and how they were trained",
    "eval/tasks/demo": "the demo's benchmarks as lmms-eval tasks",
    "coincide/report/templates": "the page's HTML and CSS",
    "docs/demo_ablations": "ledger and report of the ``demo_ablation_*``, three seeds",
    "docs/demo_curve": "the same of ``demo_curve``",
    "docs/demo_table": "ledger and report of ``demo_table`` and its controls, five seeds",
    "docs/lab_noise": "ten runs of ``lab_noise``, and the noise that ``coincide.power`` reads",
    "docs/lab_table": "ledger and reports of ``lab_table``, as far as it ran",
    "docs/table_2026_demo": "the same of ``table_2026_demo`` and two controls, five seeds",
    "tests/assets": "outputs of published reference code, with provenance",
}


def lines() -> list[str]:
    """One line per file, one per folded folder, sorted by path."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True
    )
    found: dict[str, str] = {}
    for name in listed.stdout.split():
        folder = next((f for f in FOLDED if name.startswith(f + "/")), None)
        if folder:
            found[folder + "/"] = FOLDED[folder]
        elif not name.endswith("__init__.py"):
            found[name] = SAID.get(name) or _first_line(ROOT / name)
    width = 40
    return [f"{name:<{width}} {text}".rstrip() for name, text in sorted(found.items())]


def _first_line(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").split("\n")[0].rstrip(".")
    comments = [line.lstrip("# ") for line in text.splitlines() if line.startswith("# ")]
    useful = [line for line in comments if not line.startswith("@package")]
    return useful[0].rstrip(".") if useful else ""


def page() -> str:
    """The whole text of ``docs/MAP.md``."""
    return f"{HEAD}\n```\n" + "\n".join(lines()) + "\n```\n"


def main() -> None:
    """Write the page anew."""
    (ROOT / "docs" / "MAP.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
