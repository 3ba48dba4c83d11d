"""``python -m tests.pools [POOL ...]``: each pool's form and each new target's class, end to end.

A miniature of each pool is served by a hub of this machine and goes the whole way: prepare, verify,
select, LoRA finetuning of a tiny model of the class with its own recipe (shrunk), POPE in
miniature through lmms-eval, report. Every step is ``run.py`` as a user types it. Without names all
are run and the table is put into ``docs/POOLS.md``.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import patch

from tests.pools.made import MAKERS, REPOSITORIES

PAGE = Path("docs/POOLS.md")
BEGIN, END = "<!-- runs -->", "<!-- end of runs -->"
CLASSES = {
    "llava_onevision": ("qwen2_5_vl", "lora_qwen_vl"),
    "parquet": ("qwen3_vl", "lora_qwen_vl"),
    "the_cauldron": ("smolvlm", "lora_smolvlm"),
    "finevision": ("internvl", "lora_internvl"),
    "cambrian_7m": ("llava_onevision", "lora_llava_onevision"),
}
"""Pool -> the class of the target that is tuned on it, and its recipe."""
SMALL = (
    "method=random", "budget=6", "seed=0", "eval=today", "train.rank=4", "train.alpha=8",
    "train.max_steps=2", "train.global_batch=2", "train.micro_batch=2", "train.workers=0",
    "train.precision=fp32", "train.processes=1", "train.zero_stage=0", "train.save_every=null",
    "train.gradient_checkpointing=false", "eval.dtype=float32", "target.max_length=2048",
    "+eval.benchmarks.pope.generation={max_new_tokens: 2}", "data.expect=any", "logger=none",
    "health.lost_rows=0.5",
)  # fmt: skip
OTHERS = (
    "mmmu", "mmbench_en", "mme", "seed", "ai2d", "chartqa", "docvqa", "infovqa", "textvqa",
    "realworldqa",
)  # fmt: skip


def words_of(pool: str, place: Path, target: Path) -> list[str]:
    """What is typed for ``pool``: its own YAML, with everything below ``place``."""
    family, recipe = CLASSES[pool]
    where = [f"paths.data={place}"]
    if pool == "parquet":
        where = [f"data.annotations={place / 'own'}"]
    return [
        f"data={pool}", *where, "target=hub", f"target.repo={target}", f"target.label={family}",
        f"train={recipe}", f"paths.store={place / 'store'}", f"paths.ledger={place / 'ledger'}",
        f"paths.reports={place / 'reports'}", f"paths.benchmarks={place.parent / 'benchmarks'}",
        *SMALL, *(f"~eval.benchmarks.{name}" for name in OTHERS),
    ]  # fmt: skip


def typed(words: Sequence[str], place: Path) -> tuple[int, str]:
    """Run ``run.py`` with ``words`` in this process, in ``place``: its status, what it printed."""
    import run

    here, said = Path.cwd(), StringIO()
    os.chdir(place)
    try:
        with patch.object(sys, "argv", ["run.py", *words]), redirect_stdout(said):
            code = run.main()
    finally:
        os.chdir(here)
    return code, said.getvalue()


def outcome(pool: str, place: Path) -> Mapping[str, str]:
    """What every step of ``pool`` gave."""
    from tests.families.made import make
    from tests.mini.hub import serving

    family, recipe = CLASSES[pool]
    place.mkdir(parents=True)
    published = place / ("own" if pool == "parquet" else "published")
    MAKERS[pool](published)
    target = make(family, place / family)
    words = words_of(pool, place, target)
    found = {"pool": pool, "class": family, "recipe": recipe}
    if pool in REPOSITORIES:
        with serving({f"datasets/{REPOSITORIES[pool]}": published}, {}) as (address, asked):
            with patch.dict(os.environ, {"HF_ENDPOINT": address}):
                code, said = typed([*words, "command=prepare"], place)
            found["prepare"] = f"{len(asked)} files" if code == 0 else f"FAILED: {said[-300:]}"
    else:
        found["prepare"] = "–"
    code, said = typed([*words, "command=verify"], place)
    last = said.strip().splitlines()[-1].partition(": ")[2].partition(".")[0]
    found["verify"] = last if code == 0 else f"FAILED: {said[-300:]}"
    code, said = typed(words, place)
    if code:
        return {**found, "run": f"FAILED: {said[-500:]}"}
    (subset,) = (place / "store" / "subset").iterdir()
    rows = json.loads((subset / "subset.json").read_text())
    found["select"] = f"{len(rows)} rows"
    (log,) = (place / "store" / "adapter").glob("*/log.jsonl")
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    losses = [f"{step['loss']:.2f}" for step in steps if "loss" in step]
    found["train"] = "loss " + ", ".join(losses)
    (result,) = (place / "ledger").glob("*.json")
    scores = json.loads(result.read_text())["scores"]
    found["evaluate"] = ", ".join(f"{s['metric']} {s['value']:.1f}" for s in scores[:1])
    found["report"] = "yes" if (place / "reports" / "report.html").is_file() else "FAILED"
    return found


def table(found: Sequence[Mapping[str, str]]) -> str:
    """The outcomes as Markdown."""
    columns = ["pool", "class", "recipe", "prepare", "verify", "select", "train", "evaluate",
               "report"]  # fmt: skip
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(each.get(c, "–") for c in columns) + " |" for each in found]
    return "\n".join(lines)


def main(names: Sequence[str]) -> int:
    """Print the outcome of each pool; status 1 if a step failed."""
    from tests.eval import hub
    from tests.warm import imported

    found = []
    with tempfile.TemporaryDirectory() as place, imported():
        os.environ["XDG_CACHE_HOME"] = str(Path(place) / "cache")
        hub.mirror(Path(place) / "benchmarks")
        for pool in names or MAKERS:
            found.append(outcome(pool, Path(place) / pool))
            print(json.dumps(found[-1], ensure_ascii=False), flush=True)
    if not names:
        text = PAGE.read_text(encoding="utf-8")
        head, tail = text.partition(BEGIN)[0], text.partition(END)[2]
        PAGE.write_text(f"{head}{BEGIN}\n{table(found)}\n{END}{tail}", encoding="utf-8")
    return int(any("FAILED" in value for each in found for value in each.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
