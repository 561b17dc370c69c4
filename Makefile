# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
SHELL  := /bin/bash

.PHONY: demo test lint bench audit install clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.installed  ## create .venv and install matinee with its tools

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'torch==2.13.*' -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	touch $@

demo: install  ## set up, then run the main job end to end on the built-in world
	$(BIN)/matinee demo

test: install lint  ## set up, then lint, types, layers and tests; TESTS=all adds those of endurance, as CI does
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(if $(filter all,$(TESTS)),,-m 'not endurance')

lint: install  ## ruff, mypy strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install  ## every benchmark, each ending in a RESULT line
	for program in benchmarks/*.py; do $(BIN)/python $$program || exit 1; done

audit: install  ## known vulnerabilities in what is pinned; fails where PyPI's advisories cannot be asked about one
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[audit]' -c constraints.txt
	$(BIN)/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

clean:  ## remove what the commands above made, except .venv
	rm -rf .matinee .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
