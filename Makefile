# The two commands that matter: `make demo` and `make test`. Both make the environment first.
PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
# one thread of torch in each process: more threads than cores make it slower by far; a third process
# on two cores, since tests on SLURM, killed and waiting processes leave theirs idle
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder -rs

.PHONY: install demo test test-fast check docs lock clean

install: $(VENV)/.ready       ## the environment, from requirements.lock

demo: $(VENV)/.ready          ## select, finetune, evaluate and report on the embedded dataset
	$(PY) run.py

test: $(VENV)/.ready          ## the whole suite
	$(PYTEST)

test-fast: $(VENV)/.ready     ## without the tests marked slow
	$(PYTEST) -m "not slow"

check: $(VENV)/.ready         ## style, types, import direction
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	PYTHONPATH=. $(VENV)/bin/lint-imports

$(VENV)/.ready: requirements.lock
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or later is needed, this is {v[0]}.{v[1]}: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV) || { echo "On Debian and Ubuntu: apt-get install python3-venv g++"; exit 1; }
	$(PY) -m pip install --quiet --upgrade pip setuptools wheel
	$(PY) -m pip install --quiet --requirement requirements.lock
	$(PY) -m pip check
	touch $@

docs:                         ## docs/MAP.md, the method guide and docs/BENCHMARKS.md
	python3 scripts/tree.py
	$(PY) scripts/methods_doc.py
	$(PY) -m eval.benchmarks_doc

lock:                         ## resolve pyproject.toml anew and rewrite requirements.lock
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --upgrade pip setuptools wheel
	.venv-lock/bin/python scripts/lock.py
	rm -rf .venv-lock

clean:                        ## everything that a run or a test made, but not the environment
	rm -rf store outputs multirun ledger reports sweeps wandb .mypy_cache .ruff_cache .pytest_cache
