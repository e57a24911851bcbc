# Two commands do all the set-up on a fresh machine: `make run` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: run test bench clean

run: $(VENV)/.run
	$(BIN)/hwsearch run --space spaces/large.yaml

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses auto --dist loadfile

$(VENV)/.python:
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"hwsearch needs Python 3.11 or newer, this is {v[0]}.{v[1]}; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	touch $@

# Predicting and searching need no torch.
$(VENV)/.run: $(VENV)/.python pyproject.toml constraints.txt
	$(INSTALL) --editable .
	touch $@

# The pinned torch first, so that no later requirement picks another build of it.
$(VENV)/.test: $(VENV)/.python pyproject.toml constraints.txt
	$(INSTALL) torch
	$(INSTALL) --editable '.[dev]'
	touch $@ $(VENV)/.run

bench: $(VENV)/.test
	$(BIN)/python benchmarks/grid.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/samplers.py

clean:
	rm -rf $(VENV)
