# make demo        the whole way on a fresh machine, then open recipes/demo/report.html
# make check       format, lint, types, import contracts
# make test        what a change can break, at most 10 minutes on two cores
# make test-slow   kills, the full demo, fuzzing: at most 60 minutes
# make bench       training speed against transformers and torchtitan, about an hour on two cores; see benchmarks/README.md
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo check format test test-slow bench clean

.venv/bin/python:
	$(PYTHON) -m venv .venv

# TORCH_INDEX_URL: a package index with another build of PyTorch (the CPU build, or another CUDA). See the README.
.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
ifdef TORCH_INDEX_URL
	$(PIP) torch --index-url $(TORCH_INDEX_URL)
endif
	$(PIP) -e '.[all]'
	touch $@

.venv/installed-dev: .venv/installed
	$(PIP) -e '.[dev]'
	touch $@

demo: .venv/installed
	$(BIN)/kiban run recipes/demo

check: .venv/installed-dev
	$(BIN)/ruff format --check src tests recipes benchmarks
	$(BIN)/ruff check src tests recipes benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed-dev
	$(BIN)/ruff format src tests recipes benchmarks
	$(BIN)/ruff check --fix src tests recipes benchmarks

test: .venv/installed-dev
	$(BIN)/pytest -m 'not slow'

test-slow: .venv/installed-dev
	$(BIN)/pytest -m slow

bench: .venv/installed-dev
	$(BIN)/python benchmarks/training_cpu.py

clean:
	rm -rf .venv .venv-* recipes/*/.kiban recipes/*/evidence recipes/*/report.html
