# `make demo` and `make test` are all that a fresh clone needs: each makes .venv if there is none.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

CANDIDATES := python3 python3.11 python3.12
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(firstword $(foreach python,$(CANDIDATES),\
	$(shell $(python) -c '$(SUPPORTED)' 2>/dev/null && echo $(python))))

.PHONY: help demo test quick coverage lint format benchmark clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(INSTALLED): setup.py constraints.txt
	@$(or $(PYTHON),false) -c '$(SUPPORTED)' 2>/dev/null || { echo "make needs Python 3.11 or 3.12:" \
		"$(or $(PYTHON),none of $(CANDIDATES)) is not one. Name one with:" \
		"make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; } >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --editable '.[dev]' --constraint constraints.txt
	@touch $@

demo: $(INSTALLED) ## train and score a small translation model, with and without expected BLEU
	$(BIN)/python -m recipes run demo --jobs 2

test: lint ## lint, type check and all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2

quick: lint ## lint, type check and the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 -m "not slow"

coverage: $(INSTALLED) ## all tests, and which lines of the objectives and the plugin they leave out
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --cov \
		--cov-report=term-missing:skip-covered --cov-fail-under=95

lint: $(INSTALLED) ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(INSTALLED) ## let ruff sort the imports and lay out the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

benchmark: $(INSTALLED) ## measure speed and memory (docs/performance.md), run the toy experiment
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.toy_expected_bleu

clean: ## remove builds and caches; .venv and runs stay
	rm -rf build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -path ./runs -prune -o -name __pycache__ -print | xargs rm -rf
