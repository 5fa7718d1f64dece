# Every target works from a fresh clone: Python 3.11 or newer and make are enough.

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e
PINS := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all check bench

help:
	@echo "make demo      see a policy act, learn a new task, and be measured (10 minutes)"
	@echo "make test      the fast tests"
	@echo "make test-all  all tests"
	@echo "make check     ruff, format, pyright"
	@echo "make bench     how fast the shipped policy answers here"
	@echo "make setup     only install into .venv"

setup: .venv/.installed-dev

demo: .venv/.installed-demo
	$(BIN)/openvla demo

# One thread per process: two processes of many threads each fight over two cores.
test: .venv/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

test-all: .venv/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "slow or not slow"

check: .venv/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

bench: .venv/.installed-dev
	$(BIN)/openvla bench

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "openvla needs Python 3.11 or newer, and $(PYTHON) is not that; name one: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv

.venv/.installed-dev: $(PINS) | .venv/bin/python
	@echo "installing into .venv (some minutes the first time)"
	$(INSTALL) '.[dev]'
	@touch .venv/.installed-dev .venv/.installed-demo

.venv/.installed-demo: $(PINS) | .venv/bin/python
	@echo "installing into .venv (some minutes the first time)"
	$(INSTALL) '.[train,sim]'
	@touch $@
