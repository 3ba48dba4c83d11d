#!/usr/bin/env bash
# lmms-eval 0.7.3: `doc_to_target: answer` in a task's file names the column answer. Where the documents have no such column
# the word itself becomes every document's target, without an error: a task whose column is called otherwise scores how
# often the model says "answer".
#
# seen: documents with the column answer: target 'blue', exact match of the reply 'answer' 0.0
# seen: documents without it: target 'answer', exact match of the reply 'answer' 1.0
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile \
  lmms-eval==0.7.3 filelock==4.2.12 pillow==13.0.0 torch==2.14.1 torchvision==0.29.1 transformers==5.23.0 datasets==5.2.0

cat >"$folder/show.py" <<'PYTHON'
import json
import sys
from pathlib import Path

from lmms_eval.api.model import lmms
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager


class Answer(lmms):
    """A model that says the word "answer" whatever it is asked."""

    is_simple = True

    def generate_until(self, requests):
        return ["answer" for _ in requests]

    def loglikelihood(self, requests):
        raise NotImplementedError

    def generate_until_multi_round(self, requests):
        raise NotImplementedError


Path("tasks").mkdir()
Path("tasks/nothing.py").write_text("def nothing(doc):\n    return []\n")


def score(name, document):
    Path(f"{name}.jsonl").write_text(json.dumps(document) + "\n")
    Path(f"tasks/{name}.yaml").write_text(
        f"""task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {Path.cwd() / name}.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function nothing.nothing
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 8, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
    )
    tasks = TaskManager(include_path="tasks", include_defaults=False)
    results = simple_evaluate(model=Answer(), tasks=[name], task_manager=tasks, log_samples=True)
    return results["samples"][name][0]["target"], results["results"][name]["exact_match,none"]


question = "Which colour is the sky?"
there = score("with_column", {"question": question, "answer": "blue"})
gone = score("without_column", {"question": question, "answers": "blue"})
print(f"documents with the column answer: target {there[0]!r}, exact match of the reply 'answer' {there[1]}")
print(f"documents without it: target {gone[0]!r}, exact match of the reply 'answer' {gone[1]}")
held = there == ("blue", 0.0) and gone == ("answer", 1.0)
print("as stated" if held else "DIFFERENT from what is stated")
sys.exit(not held)
PYTHON
cd "$folder"
venv/bin/python show.py 2>"$folder/log" || { tail -n 20 "$folder/log" >&2; exit 1; }
