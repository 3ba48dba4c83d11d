"""The page ``docs/MODELS.md``: what the stages found, family by family."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version

STAGES = ("inputs", "labels", "features", "training", "answers")
PUBLISHED = {
    "llava": "llava-1.5-hf", "qwen2_5_vl": "Qwen2.5-VL", "qwen3_vl": "Qwen3-VL",
    "smolvlm": "SmolVLM2", "internvl": "InternVL3-hf", "llava_onevision": "LLaVA-OneVision",
}  # fmt: skip
NOT_BUILT = {
    "gemma3n": "its tower (MobileNetV5 of timm) has no small form: a pass takes minutes",
    "qwen4_exp": "small it has linear attention alone, which its own cache refuses",
    "audio and video alone, text in and text out": "no picture stage to hold them to",
    "cosmos3*, dots3_note, ernie4_5_vl_moe, glm5_next, hunyuan_vl, inkling*, minimax_m3_vl, "
    "mistral_large4, muse_spark, nemotron_h_omni, step3p7": "no tiny form was written yet",
}
HEAD = """# Models: which families are right in every stage

Written by `python -m tests.families`, which builds each family of transformers tiny (random
weights, three decoder blocks, the family's own processor, a chat template in the form of the
published one) and holds every stage to plain transformers at batch 1, in float64, over ten rows
with one picture, two, none, shared pictures, several turns:

- **inputs**: token ids, inputs and the tokens that receive picture features are the processor's;
- **labels**: the assistant's text and the token that ends it, nothing else;
- **features**: activations, last state and NLL of the whole pass in batches = the row alone;
- **training**: first loss of a padded batch with LoRA = sum of plain NLL / answer tokens;
- **answers**: greedy answers in batches, and behind shared prefixes = plain `generate`.

*right*: equal up to rounding (1e-5; training in float32). *refused*: an error in words before
hours are spent. Real checkpoints' own templates, GPUs and half precision are not part of this: try
`reference.repo` or `target.repo` of your model on a few rows first. A family that is not listed is
refused where a stage finds that it cannot be right: inputs of unknown kind, text changed before it
is tokenised, attention that sees the answer, no projector.

"""

NAMED = """
## Named targets and references

| target | its recipe | reference | limits of pictures |
|---|---|---|---|
| `qwen2_5_vl_3b`, `_7b` | `train=lora_qwen_vl` | `qwen2_5_vl_3b` | 16 to 576 patches of 28 x 28 |
| `qwen3_vl_8b` | `train=lora_qwen_vl` | `qwen3_vl_2b` | 16 to 576 patches of 32 x 32 |
| `smolvlm2_2b` | `train=lora_smolvlm` | `smolvlm2_500m` | 1,536 pixels: 17 tiles of 384 x 384 |
| `internvl3_8b` | `train=lora_internvl` | `internvl3_1b` | 6 tiles of 448 x 448 and one of all |
| `llava_onevision_7b` | `train=lora_llava_onevision` | `llava_onevision_0_5b` | own grid |

A target named on the command line brings its recipe and `eval=today`, a suite without a judge,
unless `train=`, `eval=` or an experiment says otherwise (`conf/own.yaml`). A recipe's YAML names
the script that its rates come from and what is otherwise here. `pictures` in the YAML are settings
of the image processor, written into the model's copy for every stage. Hours are estimated by the
dry run, memory by `python -m coincide.doctor` on the machine with the GPUs:

    python run.py method=random data=llava_onevision target=qwen2_5_vl_3b budget=0.15 dry_run=true

Revisions are those that public code names for these repositories; no hub was asked. Not pinned,
since none is known: TinyLLaVA-2.0B and its SigLIP (`reference=tinyllava_2b`), the 13B projector of
LLaVA-1.5 (`target=llava_1_5_13b`), and the datasets FineVision and Cambrian-10M (`main`; the commit
that it was at is kept when their files are listed).
"""


def page(found: Mapping[str, Mapping[str, str]]) -> str:
    """The page for the outcomes of all families."""
    used = ", ".join(f"{name} {version(name)}" for name in ("transformers", "torch", "peft"))
    right = sorted(n for n, f in found.items() if all(f.get(s) == "right" for s in STAGES))
    lines = [
        HEAD, f"With {used}: {len(right)} of {len(found)} families are right in every stage.\n",
        "| family | " + " | ".join(STAGES) + " | said |", "|---" * (len(STAGES) + 2) + "|",
    ]  # fmt: skip
    for name, outcome in sorted(found.items(), key=lambda each: (each[0] not in right, each[0])):
        words = dict.fromkeys(v for k, v in outcome.items() if k == "note" or v != "right")
        cells = [_cell(outcome, stage) for stage in STAGES]
        shown = f"{name} ({PUBLISHED[name]})" if name in PUBLISHED else name
        said = "; ".join(_short(word) for word in words)
        lines.append(f"| {shown} | " + " | ".join(cells) + f" | {said} |")
    lines += ["", "Not built:", ""]
    lines += [f"- {name}: {why}." for name, why in NOT_BUILT.items()]
    return "\n".join(lines) + "\n" + NAMED


def _cell(outcome: Mapping[str, str], stage: str) -> str:
    found = outcome.get(stage, outcome.get("plan", outcome.get("built", "")))
    return found.partition(":")[0]


def _short(word: str) -> str:
    said = word.removeprefix("refused: ").replace("|", "/")
    return said.partition(". Choose")[0].partition("; train an image-text")[0]
