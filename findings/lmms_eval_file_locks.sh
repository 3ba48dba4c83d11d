#!/usr/bin/env bash
# lmms-eval 0.7.3 with filelock 4.2.12: one evaluation changes file locks for the whole process, for good. Before it every
# call of filelock.FileLock(path) gives a lock of its own; after it all calls with one path give the same object, kept to
# the end of the process. A child forked later gets its parent's object from a plain FileLock(path) and cannot take it:
# filelock refuses locks that were inherited across a fork, and "construct a new instance", its advice, gives the same one.
#
# seen: before: two calls give one object: False; here: taken; in a forked child: taken
# seen: evaluated: 1.0
# seen: after one evaluation: two calls give one object: True; here: taken; in a forked child: RuntimeError: UnixFileLock on ./things.lock was inherited across fork; construct a new instance
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile \
  lmms-eval==0.7.3 filelock==4.2.12 pillow==13.0.0 torch==2.14.1 torchvision==0.29.1 transformers==5.23.0 datasets==5.2.0

cat >"$folder/show.py" <<'PYTHON'
import json
import multiprocessing
import sys
from pathlib import Path

import filelock

PATH = str(Path.cwd() / "things.lock")


def take(lock=None):
    """Take and give back the lock of one path; "taken", or the error."""
    try:
        with lock or filelock.FileLock(PATH):
            return "taken"
    except Exception as error:
        return f"{type(error).__name__}: {str(error).replace(str(Path.cwd()), '.')}"


def in_a_child(queue):
    queue.put(take())


def forked():
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=in_a_child, args=(queue,))
    child.start()
    child.join()
    return queue.get()


def seen(when):
    one, two = filelock.FileLock(PATH), filelock.FileLock(PATH)
    here, there = take(), forked()
    print(f"{when}: two calls give one object: {one is two}; here: {here}; in a forked child: {there}")
    return one is two, here, there


before = seen("before")

from lmms_eval.api.model import lmms
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager


class Blue(lmms):
    """A model that answers "blue"."""

    is_simple = True

    def generate_until(self, requests):
        return ["blue" for _ in requests]

    def loglikelihood(self, requests):
        raise NotImplementedError

    def generate_until_multi_round(self, requests):
        raise NotImplementedError


Path("docs.jsonl").write_text(json.dumps({"question": "Which colour is the sky?", "answer": "blue"}) + "\n")
Path("tasks").mkdir()
Path("tasks/sky.yaml").write_text(
    f"""task: sky
dataset_path: json
dataset_kwargs: {{data_files: {{test: {Path.cwd() / "docs.jsonl"}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function sky.nothing
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{max_new_tokens: 8, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
)
Path("tasks/sky.py").write_text("def nothing(doc):\n    return []\n")
results = simple_evaluate(
    model=Blue(), tasks=["sky"], task_manager=TaskManager(include_path="tasks", include_defaults=False)
)
print("evaluated:", results["results"]["sky"]["exact_match,none"])
after = seen("after one evaluation")
inherited = after[2].startswith("RuntimeError: ") and "inherited across fork" in after[2]
held = before == (False, "taken", "taken") and after[:2] == (True, "taken") and inherited
print("as stated" if held else "DIFFERENT from what is stated")
sys.exit(not held)
PYTHON
cd "$folder"
venv/bin/python show.py 2>"$folder/log" || { tail -n 20 "$folder/log" >&2; exit 1; }
